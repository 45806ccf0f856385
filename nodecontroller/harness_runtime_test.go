package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/containerd/ttrpc"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/cri"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// A node's pods, and its containerd as its daemon sees it: podRuntime.

// newPod makes a pod whose shim listens.
func (n *testNode) newPod() *testPod {
	c := n.cluster
	c.mu.Lock()
	c.pods++
	id := fmt.Sprintf("%s%d", n.name, c.pods)
	c.mu.Unlock()
	p := &testPod{cluster: c, node: n.name, id: id, changed: make(chan struct{})}
	l, err := net.Listen("unix", filepath.Join(c.dir, id+".shim"))
	if err != nil {
		c.t.Fatal(err)
	}
	p.server, err = ttrpc.NewServer()
	if err != nil {
		c.t.Fatal(err)
	}
	shimv1.RegisterMigrationService(p.server, p)
	go p.server.Serve(context.Background(), l)
	n.mu.Lock()
	n.pods[id] = p
	n.mu.Unlock()
	return p
}

// run makes the pod that the test is about.
func (n *testNode) run() *testPod {
	p := n.newPod()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(shimv1.State_STATE_UNSPECIFIED, true)
	return p
}

func (n *testNode) pod(id string) *testPod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[id]
}

// only is the node's one pod, nil if it has none.
func (n *testNode) only() *testPod {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		return p
	}
	return nil
}

func (n *testNode) startContainers(ids []string) (*starts, error) {
	p := n.only()
	return &starts{waits: []func() error{func() error {
		<-p.parked
		return p.startErr
	}}}, nil
}

func (n *testNode) Pods(context.Context) ([]cri.Pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pods []cri.Pod
	for id, p := range n.pods {
		pod := cri.Pod{ID: id, Namespace: "default", Name: "p", UID: "u", Handler: cri.Handler, Ready: true,
			Containers: []cri.PodContainer{{ID: id + "c", Name: "main", Image: testImage, State: runtimev1.ContainerState_CONTAINER_RUNNING}}}
		p.mu.Lock()
		if p.parked != nil {
			pod.Annotations = map[string]string{annotation: p.migration}
		}
		p.mu.Unlock()
		pods = append(pods, pod)
	}
	return pods, nil
}

func (n *testNode) Find(ctx context.Context, _ string) (cri.Pod, error) {
	pods, err := n.Pods(ctx)
	if len(pods) == 0 {
		return cri.Pod{}, cri.ErrNoPod
	}
	return pods[0], err
}

const testImage = "sha256:e4c151f4cf1cecbbfb7a6a5f507387fb3241971a8137461908a67314021c6c84"

func (n *testNode) Describe(_ context.Context, p cri.Pod) (*cri.Description, error) {
	return &cri.Description{
		Handler:    cri.Handler,
		Sandbox:    &runtimev1.PodSandboxConfig{Metadata: &runtimev1.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: p.UID}},
		Containers: []cri.ContainerDescription{{ID: p.Containers[0].ID, Image: testImage, Config: &runtimev1.ContainerConfig{Metadata: &runtimev1.ContainerMetadata{Name: "main"}}}},
	}, nil
}

func (n *testNode) Recreate(_ context.Context, _ *cri.Description, _ cri.Node, annotations map[string]string) (cri.Made, error) {
	p := n.newDestination(annotations[annotation])
	return cri.Made{Sandbox: p.id, Containers: []string{p.id + "c"}}, nil
}

// newDestination makes a pod that comes with a migration.
func (n *testNode) newDestination(migration string) *testPod {
	p := n.newPod()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.migration, p.parked = migration, make(chan struct{})
	return p
}

func (n *testNode) ClearDeadTask(context.Context, string) error { return nil }

func (n *testNode) Remove(_ context.Context, id string) error {
	p := n.pod(id)
	if p == nil {
		return nil
	}
	p.kill()
	n.mu.Lock()
	delete(n.pods, id)
	n.mu.Unlock()
	if p.parked != nil && n.cluster.remakes.Load() {
		n.newDestination(p.migration)
	}
	return nil
}

func (n *testNode) Annotated(_ context.Context, _, migration string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for id, p := range n.pods {
		p.mu.Lock()
		if p.parked != nil && p.migration == migration {
			ids = append(ids, id)
		}
		p.mu.Unlock()
	}
	return ids, nil
}

func (n *testNode) IP(context.Context, string) (string, error)           { return "192.0.2.7", nil }
func (n *testNode) SharedMemory(context.Context, string) (string, error) { return "", nil }
func (n *testNode) Memory(context.Context) (map[string]uint64, error)    { return nil, nil }
func (n *testNode) Image(_ context.Context, id string) (cri.Image, error) {
	return cri.Image{ID: id, Target: id}, nil
}
func (n *testNode) NameImage(context.Context, cri.Image) error         { return nil }
func (n *testNode) Pull(context.Context, cri.Image) error              { return errors.New("no registry") }
func (n *testNode) Export(context.Context, cri.Image, io.Writer) error { return nil }
func (n *testNode) Import(context.Context, cri.Image, io.Reader) error { return nil }
func (n *testNode) ImageInUse(context.Context, string) (bool, error)   { return true, nil }
func (n *testNode) RemoveImage(context.Context, string) error          { return nil }
func (n *testNode) Version(context.Context) (string, error)            { return "test", nil }
func (n *testNode) Runtimes(context.Context) (map[string]cri.Runtime, error) {
	return nil, nil
}
func (n *testNode) Close() error { return nil }

// WhenTasksChange looks often: a stand-in has no events.
func (n *testNode) WhenTasksChange(ctx context.Context, look func(context.Context) (bool, error)) error {
	for {
		if done, err := look(ctx); err != nil || done {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func (n *testNode) Volumes(context.Context, []string) ([]cri.Volume, error) { return nil, nil }
