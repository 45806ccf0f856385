package kubernetes

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// lost says what became of the pod that the destination owns if it is not there any
// more, "" if it is. One that is not known yet may only be to come.
func (c *Controller) lost(ctx context.Context, m *v1alpha1.PodMigration) (string, error) {
	node := new(corev1.Node)
	err := c.reader.Get(ctx, client.ObjectKey{Name: m.Status.DestinationNode}, node)
	if apierrors.IsNotFound(err) {
		return "the node is gone from the cluster", nil
	}
	if err == nil && outOfService(node) {
		return nodecontroller.ErrOutOfService.Error(), nil
	}
	is := m.Status.DestinationPod
	if err != nil || is == nil || is.UID == "" {
		return "", err
	}
	pod := new(corev1.Pod)
	err = c.reader.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: is.Name}, pod)
	if apierrors.IsNotFound(err) || err == nil && pod.UID != is.UID {
		return "pod " + is.Name + " was deleted", nil
	}
	return "", err
}

// lossMessage says that a pod is lost, and why.
func lossMessage(m *v1alpha1.PodMigration, why string) string {
	return fmt.Sprintf("node %s owned the pod, and has lost it: %s", m.Status.DestinationNode, why)
}

// Lost writes down that the destination has lost the pod. One that is over stays as it is. It implements nodecontroller's Orchestrator.
func (s *session) Lost(ctx context.Context, _ string, why error) error {
	var ended *v1alpha1.PodMigration
	err := s.update(ctx, func(m *v1alpha1.PodMigration) error {
		if ended = nil; m.Status.Phase.Over() {
			return nil
		}
		if err := movePhase(m.Status.Phase, v1alpha1.PhaseFailed); err != nil {
			return err
		}
		now := metav1.Now()
		m.Status.Phase, m.Status.Message, m.Status.CompletionTime = v1alpha1.PhaseFailed, lossMessage(m, why.Error()), &now
		ended = m
		return nil
	})
	if err == nil && ended != nil {
		s.c.record.Record(ended, events.Event{Type: events.Warning, Reason: string(v1alpha1.PhaseFailed), Message: ended.Status.Message})
	}
	if errors.Is(err, errObjectGone) {
		return nil
	}
	return err
}
