package kubernetes

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/destination"
)

// MakePod has the cluster make the destination's pod: of a bare pod a copy, of an
// owner's pod the next one that the owner's controller makes. Asked again it does
// what is left. It implements nodecontroller's Orchestrator.
func (s *session) MakePod(ctx context.Context, _ string) error {
	if s.plan.LatePod {
		return s.patiently(ctx, s.makeLatePod)
	}
	return s.patiently(ctx, s.makePod)
}

// makeLatePod is makePod where the destination's pod has to wait for something that
// the source's has: its name, or a volume. The source's pod is there still, and is
// removed only after this: that it is gone means that this was done.
func (s *session) makeLatePod(ctx context.Context) error {
	source := new(corev1.Pod)
	err := s.call(ctx, func(ctx context.Context) error {
		return s.c.reader.Get(ctx, client.ObjectKeyFromObject(s.source), source)
	})
	switch {
	case apierrors.IsNotFound(err), err == nil && source.UID != s.source.UID:
		return nil
	case err != nil:
		return fmt.Errorf("pod %s: %w", s.source.Name, err)
	}
	s.source = source // an earlier daemon's session has its name only
	m, err := s.current(ctx)
	if err != nil {
		return err
	}
	if o := m.Status.Owner; o != nil && o.Kind == kindStatefulSet {
		return nil // the commit has opened the claim
	}
	return s.makePod(ctx)
}

func (s *session) makePod(ctx context.Context) error {
	m, err := s.current(ctx)
	if err != nil {
		return err
	}
	if m.Status.Owner == nil {
		return s.makeCopy(ctx)
	}
	if err := s.openClaim(ctx); err != nil {
		return err
	}
	return s.releaseSource(ctx, m.Status.Owner)
}

// makeCopy creates a bare pod's successor, under a name that is written down
// before: whoever clears up must find it.
func (s *session) makeCopy(ctx context.Context) error {
	err := s.update(ctx, func(m *v1alpha1.PodMigration) error {
		if m.Status.DestinationPod == nil {
			m.Status.DestinationPod = &v1alpha1.PodReference{Name: destination.NameOf(s.source)}
		}
		return nil
	})
	if err != nil {
		return err
	}
	m, err := s.current(ctx)
	if err != nil {
		return err
	}
	pod := destination.Copy(s.source, m.Status.DestinationPod.Name, s.arrival(m))
	err = s.call(ctx, func(ctx context.Context) error { return s.c.client.Create(ctx, pod) })
	if apierrors.IsAlreadyExists(err) {
		return s.checkMade(ctx, pod)
	}
	if err != nil {
		return fmt.Errorf("make pod %s: %w", pod.Name, err)
	}
	return nil
}

func (s *session) arrival(m *v1alpha1.PodMigration) destination.Arrival {
	return destination.Arrival{
		Migration:    s.id,
		PodMigration: m.Name,
		Node:         s.plan.Node,
		Images:       s.plan.Images,
		Hostname:     destination.Hostname(s.source),
	}
}

// checkMade sees that a pod that is there already is the one that was to be made.
func (s *session) checkMade(ctx context.Context, want *corev1.Pod) error {
	pod := new(corev1.Pod)
	err := s.call(ctx, func(ctx context.Context) error { return s.c.reader.Get(ctx, client.ObjectKeyFromObject(want), pod) })
	if err != nil {
		return fmt.Errorf("pod %s: %w", want.Name, err)
	}
	if pod.Annotations[v1alpha1.AnnotationMigration] != s.id && pod.Annotations[v1alpha1.AnnotationMovedBy] != want.Annotations[v1alpha1.AnnotationMovedBy] {
		return fmt.Errorf("another pod is called %s: delete it, and migrate again", want.Name)
	}
	return nil
}

// openClaim lets the owner's next pod become the destination's.
func (s *session) openClaim(ctx context.Context) error {
	return s.update(ctx, func(m *v1alpha1.PodMigration) error {
		if m.Status.Claim == "" {
			m.Status.Claim = v1alpha1.ClaimOpen
		}
		return nil
	})
}

// releaseSource takes the source's pod out of its owner's selection, so that the
// owner makes another: it never has one too many.
func (s *session) releaseSource(ctx context.Context, o *v1alpha1.Owner) error {
	selector, err := s.selector(ctx, o)
	if err != nil {
		return err
	}
	label, err := releaseLabel(o.Kind, selector)
	if err != nil {
		return fmt.Errorf("pod %s: %w", s.source.Name, err)
	}
	err = s.call(ctx, func(ctx context.Context) error {
		return s.c.changePod(ctx, client.ObjectKeyFromObject(s.source), string(s.source.UID), func(pod *corev1.Pod) error { return release(pod, label) })
	})
	if err != nil {
		return fmt.Errorf("take pod %s out of %s %s: %w", s.source.Name, o.Kind, o.Name, err)
	}
	return nil
}

// selector is what an owner selects its pods by.
func (s *session) selector(ctx context.Context, o *v1alpha1.Owner) (*metav1.LabelSelector, error) {
	key := client.ObjectKey{Namespace: s.source.Namespace, Name: o.Name}
	var owner client.Object
	var selector func() *metav1.LabelSelector
	switch o.Kind {
	case kindReplicaSet:
		set := new(appsv1.ReplicaSet)
		owner, selector = set, func() *metav1.LabelSelector { return set.Spec.Selector }
	case kindJob:
		job := new(batchv1.Job)
		owner, selector = job, func() *metav1.LabelSelector { return job.Spec.Selector }
	default:
		return nil, fmt.Errorf("pod %s belongs to a %s, whose pods cannot be moved", s.source.Name, o.Kind)
	}
	if err := s.call(ctx, func(ctx context.Context) error { return s.c.reader.Get(ctx, key, owner) }); err != nil {
		return nil, fmt.Errorf("%s %s, which owns pod %s: %w", o.Kind, o.Name, s.source.Name, err)
	}
	return selector(), nil
}

// RemoveSource deletes the source's pod, whose processes have ended, and no other
// of its name. It implements nodecontroller's Orchestrator.
func (s *session) RemoveSource(ctx context.Context, _ string) error {
	return s.c.removePod(ctx, s.source, 0)
}

// removePod deletes one pod with a grace period in seconds; that it is gone is no error.
func (c *Controller) removePod(ctx context.Context, pod *corev1.Pod, grace int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.client.Delete(ctx, pod, client.GracePeriodSeconds(grace), client.Preconditions{UID: &pod.UID})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // another of its name
		return nil
	}
	return fmt.Errorf("delete pod %s: %w", pod.Name, err)
}

// changePod changes a pod's metadata, on the newest version there is. A pod of
// another UID is no longer there.
func (c *Controller) changePod(ctx context.Context, key client.ObjectKey, uid string, change func(*corev1.Pod) error) error {
	for {
		pod := new(corev1.Pod)
		if err := c.reader.Get(ctx, key, pod); err != nil {
			return err
		}
		if uid != "" && string(pod.UID) != uid {
			return apierrors.NewNotFound(corev1.Resource("pods"), key.Name)
		}
		before := pod.DeepCopy()
		if err := change(pod); err != nil {
			return err
		}
		err := c.client.Patch(ctx, pod, metadataOf(before))
		if !apierrors.IsConflict(err) {
			return err
		}
	}
}
