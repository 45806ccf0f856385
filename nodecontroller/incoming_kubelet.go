package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/cri"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// podDeadline is what kubelet may take from the source's asking for the pod until
// the containers are parked: what it waits for itself, an image or a volume, has
// been seen to before.
const podDeadline = 2 * time.Minute

// errNoPodYet: the cluster was asked for the pod, and it is not there.
var errNoPodYet = errors.New("kubelet has not started all containers of the pod")

// awaitPod waits until kubelet has made the pod and its containers are parked.
// Nothing of the pod is this daemon's to make, or to remove.
func (m *incoming) awaitPod(ctx context.Context) error {
	m.say("waiting for kubelet to make the pod")
	ctx, cancel := context.WithTimeoutCause(ctx, podDeadline,
		fmt.Errorf("%w within %v; kubectl describe pod says why", errNoPodYet, podDeadline))
	defer cancel()
	err := m.findPod(ctx)
	if err == nil {
		err = m.parkFound(ctx, m.startEnded)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// findPod waits for the pod's containers.
func (m *incoming) findPod(ctx context.Context) error {
	var made cri.Made
	err := m.d.cri.WhenTasksChange(ctx, func(ctx context.Context) (bool, error) {
		pods, err := m.d.cri.Pods(ctx)
		if err != nil {
			return false, err
		}
		var found bool
		made, found, err = matchPod(m.description, m.id, pods)
		return found, err
	})
	if err != nil {
		return err
	}
	return m.noteMade(made)
}

// parkFound waits until the starts of the pod's containers have reached the shim,
// and watches from the first of them on whether all wait there: ended hears of it
// when the starts have come to an end.
func (m *incoming) parkFound(ctx context.Context, ended func(error)) error {
	var err error
	if m.podIP, err = m.d.cri.IP(ctx, m.made.Sandbox); err != nil {
		return err
	}
	shim, err := m.d.dialShim(ctx, m.made.Sandbox)
	if err != nil {
		return err
	}
	defer shim.close()
	if _, err := shim.WaitParked(ctx, &shimv1.WaitParkedRequest{Migration: m.id, Container: m.made.Containers[0]}); err != nil {
		return fmt.Errorf("container %s is not parked: %w", m.description.Containers[0].Name(), plain(err))
	}
	m.starts = m.d.watchStarts(m.made.Sandbox, m.id)
	m.starts.whenOneEnds(ended)
	if err := m.park(ctx); err != nil {
		return err
	}
	return m.openVolumes(ctx)
}

// openVolumes has the receiver write into the pod's volumes.
func (m *incoming) openVolumes(ctx context.Context) error {
	if len(m.volumes) == 0 {
		return nil
	}
	volumes, err := m.d.cri.Volumes(ctx, m.made.Containers)
	if err != nil {
		return err
	}
	dirs := make(map[string]string, len(volumes))
	for _, v := range volumes {
		dirs[v.Name] = v.Dir
	}
	for i, name := range m.volumes {
		if dirs[name] == "" {
			return fmt.Errorf("the pod on node %s mounts no emptyDir %q, at the source it does: %w", m.d.config.NodeName, name, errdefs.ErrFailedPrecondition)
		}
		if err := m.receiver.openVolume(i, dirs[name]); err != nil {
			return err
		}
	}
	return nil
}

// matchPod finds among a node's pods the one that names the migration, with its
// containers in the order of the description. It is not found before all of them
// are there. A pod of another namespace is none: whoever may make pods in this one
// could look into the pod that moves as well.
func matchPod(d *cri.Description, migration string, pods []cri.Pod) (made cri.Made, found bool, err error) {
	for _, p := range pods {
		if p.Annotations[annotation] != migration || !p.Ready || p.Namespace != d.Sandbox.GetMetadata().GetNamespace() {
			continue
		}
		if p.Handler != cri.Handler {
			return made, false, fmt.Errorf("pod %s: its runtime handler is %q, not %q: %w", p.FullName(), p.Handler, cri.Handler, errdefs.ErrFailedPrecondition)
		}
		// Beside one that ends the next may be complete already.
		if made, found, err = matchContainers(d, p); found || err != nil {
			return made, found, err
		}
	}
	return made, false, nil
}

func matchContainers(d *cri.Description, p cri.Pod) (made cri.Made, found bool, err error) {
	live := make(map[string]cri.PodContainer)
	for _, c := range p.Containers { // the youngest of a name counts
		if c.State == runtimev1.ContainerState_CONTAINER_CREATED || c.State == runtimev1.ContainerState_CONTAINER_RUNNING {
			live[c.Name] = c
		}
	}
	made.Sandbox = p.ID
	for _, want := range d.Containers {
		c, ok := live[want.Name()]
		if !ok {
			return cri.Made{}, false, nil
		}
		if c.Image != want.Image {
			return cri.Made{}, false, fmt.Errorf("pod %s: container %s is of image %s here, of %s at the source: name images by digest: %w",
				p.FullName(), c.Name, c.Image, want.Image, errdefs.ErrFailedPrecondition)
		}
		made.Containers = append(made.Containers, c.ID)
		delete(live, c.Name)
	}
	for name := range live {
		return cri.Made{}, false, fmt.Errorf("pod %s: container %s does not run at the source: %w", p.FullName(), name, errdefs.ErrFailedPrecondition)
	}
	return made, true, nil
}

// watchStarts stands for the starts of a pod that kubelet starts: they end when the
// shim says so.
func (d *Daemon) watchStarts(sandbox, migration string) *starts {
	return &starts{waits: []func() error{func() error { return d.awaitRunning(d.life, sandbox, migration) }}}
}

// awaitRunning returns when a destination's containers run, with an error if one of
// them never will.
func (d *Daemon) awaitRunning(ctx context.Context, sandbox, migration string) error {
	s, err := d.dialShim(ctx, sandbox)
	if err != nil {
		return err
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: migration})
	if err != nil {
		return plain(err)
	}
	for {
		p, err := stream.Recv()
		switch {
		case err != nil:
			return fmt.Errorf("the pod's shim is lost: %w", plain(err))
		case p.Error != "":
			return errors.New(p.Error)
		case answerOf(p.State) == shimAborted:
			return errors.New("the pod's shim broke off")
		case answerOf(p.State) == shimRunning:
			return nil
		}
	}
}

// releasePod has the shims of a pod that kubelet made fail its starts. The pod goes
// when the cluster removes it.
func (m *incoming) releasePod(ctx context.Context, r record, why error) error {
	sandboxes, err := m.d.cri.Annotated(ctx, annotation, m.id)
	if err != nil {
		return err
	}
	for _, sandbox := range sandboxes {
		err := m.d.abortShim(ctx, sandbox, m.id, fmt.Sprint(why))
		switch {
		case err == nil, isCode(err, errdefs.IsNotFound):
		case errors.Is(err, errShimGone):
			m.clearDead(ctx, r, sandbox)
		default:
			return fmt.Errorf("the pod's shim does not abort: %w", plain(err))
		}
	}
	return nil
}

// awaitPodGone waits until nothing of the pod is left that has its images in use.
func (m *incoming) awaitPodGone(ctx context.Context) error {
	return m.d.cri.WhenTasksChange(ctx, func(ctx context.Context) (bool, error) {
		sandboxes, err := m.d.cri.Annotated(ctx, annotation, m.id)
		return len(sandboxes) == 0, err
	})
}
