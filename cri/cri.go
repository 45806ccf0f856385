// Package cri is a pod as CRI sees it: finding it, describing it so that
// another node can make it again, making it there, and removing it; and the
// images that it needs, by digest. It speaks to containerd's CRI service, and
// to containerd itself for the content of images. When a pod moves, and what
// happens to its processes, is package nodecontroller's and the shim's.
package cri

import (
	"context"
	"fmt"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Handler is the CRI runtime handler, and the RuntimeClass, of pods that can move.
const Handler = "godwit"

// containerdNamespace is where containerd's CRI service keeps what it makes.
const containerdNamespace = "k8s.io"

// maxMessage bounds what one CRI answer may take, bytes, as kubelet does
// (k8s.io/cri-client, remote_runtime.go).
const maxMessage = 16 << 20

// Client speaks to the containerd of one node.
type Client struct {
	socket     string // containerd's
	conn       *grpc.ClientConn
	runtime    runtimev1.RuntimeServiceClient
	images     runtimev1.ImageServiceClient
	containerd *containerd.Client
}

// Dial returns a client of the containerd that listens on the unix socket. It
// connects with the first call, so it succeeds where containerd is not up yet.
func Dial(socket string) (*Client, error) {
	socket = strings.TrimPrefix(socket, "unix://")
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	ctrd, err := containerd.New(socket, containerd.WithDefaultNamespace(containerdNamespace))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	return &Client{
		socket:     socket,
		conn:       conn,
		runtime:    runtimev1.NewRuntimeServiceClient(conn),
		images:     runtimev1.NewImageServiceClient(conn),
		containerd: ctrd,
	}, nil
}

// Close ends the connections. No call may follow.
func (c *Client) Close() error {
	err := c.containerd.Close()
	if cerr := c.conn.Close(); err == nil {
		err = cerr
	}
	return err
}

// Version is containerd's version, as CRI tells it.
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.runtime.Version(ctx, &runtimev1.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("CRI version: %w", err)
	}
	return v.RuntimeVersion, nil
}

// StartContainer starts a container and returns when it runs: for one that is
// restored, when the migration is committed.
func (c *Client) StartContainer(ctx context.Context, id string) error {
	if _, err := c.runtime.StartContainer(ctx, &runtimev1.StartContainerRequest{ContainerId: id}); err != nil {
		return fmt.Errorf("start container %.12s: %w", id, err)
	}
	return nil
}

// Remove stops and removes a pod with its containers. A pod that is gone
// already is no error.
func (c *Client) Remove(ctx context.Context, sandbox string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := c.runtime.StopPodSandbox(ctx, &runtimev1.StopPodSandboxRequest{PodSandboxId: sandbox})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("stop pod sandbox %.12s: %w", sandbox, err)
	}
	_, err = c.runtime.RemovePodSandbox(ctx, &runtimev1.RemovePodSandboxRequest{PodSandboxId: sandbox})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("remove pod sandbox %.12s: %w", sandbox, err)
	}
	return nil
}

// isNotFound says whether CRI does not know the thing. containerd's CRI
// service answers with the grpc code (internal/cri/instrument).
func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }
