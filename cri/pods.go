package cri

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrNoPod is returned for a pod that this node does not have.
var ErrNoPod = errors.New("no such pod on this node")

// ErrAmbiguous is returned for a name or id that several pods answer to.
var ErrAmbiguous = errors.New("several pods answer to it")

// Pod is a pod sandbox and what runs in it.
type Pod struct {
	ID        string // of the sandbox
	Namespace string
	Name      string
	UID       string
	Handler   string // the CRI runtime handler; empty is containerd's default
	Ready     bool   // the sandbox's state
	Created   time.Time
	// Annotations are the sandbox's own.
	Annotations map[string]string
	Containers  []PodContainer // in the order of their making
}

// FullName is the pod as namespace/name.
func (p Pod) FullName() string { return p.Namespace + "/" + p.Name }

// PodContainer is one container of a Pod.
type PodContainer struct {
	ID      string
	Name    string
	Image   string // the image's id, the digest of its configuration
	State   runtimev1.ContainerState
	Created time.Time
}

// Pods lists all pods of the node, by name, with all their containers.
func (c *Client) Pods(ctx context.Context) ([]Pod, error) {
	sandboxes, err := c.runtime.ListPodSandbox(ctx, &runtimev1.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	containers, err := c.runtime.ListContainers(ctx, &runtimev1.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	bySandbox := make(map[string][]PodContainer)
	for _, ct := range containers.Containers {
		bySandbox[ct.PodSandboxId] = append(bySandbox[ct.PodSandboxId], PodContainer{
			ID: ct.Id, Name: ct.GetMetadata().GetName(), Image: imageOf(ct), State: ct.State, Created: time.Unix(0, ct.CreatedAt),
		})
	}
	pods := make([]Pod, 0, len(sandboxes.Items))
	for _, s := range sandboxes.Items {
		p := Pod{
			ID:          s.Id,
			Namespace:   s.GetMetadata().GetNamespace(),
			Name:        s.GetMetadata().GetName(),
			UID:         s.GetMetadata().GetUid(),
			Handler:     s.RuntimeHandler,
			Ready:       s.State == runtimev1.PodSandboxState_SANDBOX_READY,
			Created:     time.Unix(0, s.CreatedAt),
			Annotations: s.Annotations,
			Containers:  bySandbox[s.Id],
		}
		sort.SliceStable(p.Containers, func(i, j int) bool {
			return p.Containers[i].Created.Before(p.Containers[j].Created)
		})
		pods = append(pods, p)
	}
	sort.Slice(pods, func(i, j int) bool { return pods[i].FullName() < pods[j].FullName() })
	return pods, nil
}

// imageOf is the id of a container's image: CRI's field for it is younger than
// containerd's way to say it (internal/cri/server/container_list.go).
func imageOf(ct *runtimev1.Container) string {
	if ct.ImageId != "" {
		return ct.ImageId
	}
	return ct.ImageRef
}

// Find returns the pod that ref names: namespace/name, a name, or at least
// four characters of the beginning of the sandbox's id. Of several sandboxes of
// one pod the ready one is meant. It returns ErrNoPod and ErrAmbiguous.
func (c *Client) Find(ctx context.Context, ref string) (Pod, error) {
	pods, err := c.Pods(ctx)
	if err != nil {
		return Pod{}, err
	}
	return find(pods, ref)
}

func find(pods []Pod, ref string) (Pod, error) {
	for _, match := range []func(Pod) bool{
		func(p Pod) bool { return p.ID == ref },
		func(p Pod) bool { return p.FullName() == ref },
		func(p Pod) bool { return p.Name == ref },
		func(p Pod) bool { return len(ref) >= 4 && strings.HasPrefix(p.ID, ref) },
	} {
		found := readyFirst(filter(pods, match))
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return Pod{}, fmt.Errorf("pod %q: %w: %s", ref, ErrAmbiguous, describe(found))
		}
	}
	return Pod{}, fmt.Errorf("pod %q: %w", ref, ErrNoPod)
}

func filter(pods []Pod, match func(Pod) bool) []Pod {
	var found []Pod
	for _, p := range pods {
		if match(p) {
			found = append(found, p)
		}
	}
	return found
}

// readyFirst drops what is not ready if something is: a pod that was restarted
// leaves its old sandbox behind for a while.
func readyFirst(pods []Pod) []Pod {
	if ready := filter(pods, func(p Pod) bool { return p.Ready }); len(ready) > 0 {
		return ready
	}
	return pods
}

func describe(pods []Pod) string {
	names := make([]string, len(pods))
	for i, p := range pods {
		names[i] = fmt.Sprintf("%s (%.12s)", p.FullName(), p.ID)
	}
	return strings.Join(names, ", ")
}

// Running are the containers that run.
func (p Pod) Running() []PodContainer {
	var running []PodContainer
	for _, ct := range p.Containers {
		if ct.State == runtimev1.ContainerState_CONTAINER_RUNNING {
			running = append(running, ct)
		}
	}
	return running
}

// Obstacle says why the pod cannot be moved as far as its listing shows, or
// nothing.
func (p Pod) Obstacle() string {
	switch {
	case !p.Ready:
		return "its sandbox is not ready"
	case p.Handler != Handler:
		return fmt.Sprintf("its runtime handler is %q, not %q", p.Handler, Handler)
	case len(p.Running()) == 0:
		return "none of its containers runs"
	}
	for _, ct := range p.Containers {
		if ct.State == runtimev1.ContainerState_CONTAINER_CREATED {
			return fmt.Sprintf("its container %s is not started yet", ct.Name)
		}
	}
	return ""
}

// IP is the pod's address, empty if it has none of its own.
func (c *Client) IP(ctx context.Context, sandbox string) (string, error) {
	s, err := c.runtime.PodSandboxStatus(ctx, &runtimev1.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		return "", fmt.Errorf("status of pod sandbox %.12s: %w", sandbox, err)
	}
	return s.GetStatus().GetNetwork().GetIp(), nil
}

// Memory is what the containers of each pod take now, bytes, by sandbox id. A
// pod whose use cannot be told is left out.
func (c *Client) Memory(ctx context.Context) (map[string]uint64, error) {
	stats, err := c.runtime.ListContainerStats(ctx, &runtimev1.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("container statistics: %w", err)
	}
	containers, err := c.runtime.ListContainers(ctx, &runtimev1.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	sandboxOf := make(map[string]string, len(containers.Containers))
	for _, ct := range containers.Containers {
		sandboxOf[ct.Id] = ct.PodSandboxId
	}
	memory := make(map[string]uint64)
	for _, s := range stats.Stats {
		if m := s.GetMemory(); m != nil {
			memory[sandboxOf[s.GetAttributes().GetId()]] += max(m.GetRssBytes().GetValue(), m.GetWorkingSetBytes().GetValue())
		}
	}
	return memory, nil
}
