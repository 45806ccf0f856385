package lab

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/test/pace"
)

// CRI is a connection from the host to the node's containerd. It stays open until the Lab is closed.
func (n *Node) CRI() (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cri != nil {
		return n.cri, nil
	}
	conn, err := grpc.NewClient("unix://"+n.Path(containerdSocket), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, fmt.Errorf("node %s: containerd: %w", n.Name, err)
	}
	n.cri = conn
	return conn, nil
}

// Runtime is the node's CRI runtime service.
func (n *Node) Runtime() (runtimeapi.RuntimeServiceClient, error) {
	conn, err := n.CRI()
	if err != nil {
		return nil, err
	}
	return runtimeapi.NewRuntimeServiceClient(conn), nil
}

// Images is the node's CRI image service.
func (n *Node) Images() (runtimeapi.ImageServiceClient, error) {
	conn, err := n.CRI()
	if err != nil {
		return nil, err
	}
	return runtimeapi.NewImageServiceClient(conn), nil
}

func (n *Node) closeCRI() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cri == nil {
		return nil
	}
	err := n.cri.Close()
	n.cri = nil
	return err
}

// pollInterval is for what containerd has no event for.
const pollInterval = 20 * time.Millisecond

// poll calls f until it says true, an error, or ctx ends.
func poll(ctx context.Context, f func() (bool, error)) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if done, err := f(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// awaitCRI waits until CRI says that the runtime and the pod network are ready.
func (n *Node) awaitCRI(ctx context.Context) error {
	runtime, err := n.Runtime()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(readyTimeout))
	defer cancel()
	last := "no answer"
	err = poll(ctx, func() (bool, error) {
		status, err := runtime.Status(ctx, &runtimeapi.StatusRequest{})
		if err != nil {
			last = err.Error()
			return false, nil
		}
		for _, c := range status.GetStatus().GetConditions() {
			if !c.Status && (c.Type == "RuntimeReady" || c.Type == "NetworkReady") {
				last = c.Type + ": " + c.Reason + ": " + c.Message
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("containerd's CRI is not ready: %s: %w", last, err)
	}
	return nil
}

// ExecContainer runs a command in a container of the node by the container's ID and returns its standard output. The error
// carries its exit status and standard error.
func (n *Node) ExecContainer(ctx context.Context, id string, args ...string) ([]byte, error) {
	runtime, err := n.Runtime()
	if err != nil {
		return nil, err
	}
	got, err := runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: args})
	if err != nil {
		return nil, fmt.Errorf("node %s: run %q in container %s: %w", n.Name, args, id, err)
	}
	if got.ExitCode != 0 {
		return got.Stdout, fmt.Errorf("node %s: run %q in container %s: exit status %d: %s", n.Name, args, id, got.ExitCode, tail(got.Stderr))
	}
	return got.Stdout, nil
}
