package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

const (
	// patience is how long a migration waits for a destination that is not Ready: after
	// an API server was away, nodes that run are taken to be gone for up to 40 s.
	patience = time.Minute
	// recently is how long ago at most a node was Ready that is waited for.
	recently = 2 * time.Minute
)

// notYetError keeps a migration from beginning now, and may soon not any more.
type notYetError struct{ why error }

func (e *notYetError) Error() string { return e.why.Error() }
func (e *notYetError) Unwrap() error { return e.why }

// unready says why a node is not Ready that was a moment ago, or has only just become
// so: the taint goes last. now is when it is looked at.
func unready(node *corev1.Node, now time.Time) (why string, is bool) {
	for _, c := range node.Status.Conditions {
		if c.Type != corev1.NodeReady || now.Sub(c.LastTransitionTime.Time) >= recently {
			continue
		}
		if c.Status != corev1.ConditionTrue {
			return c.Message, true
		}
		for _, t := range node.Spec.Taints {
			if t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable {
				return "it has the taint " + t.ToString() + " yet", true
			}
		}
	}
	return "", false
}

// postpone has a migration wait that cannot begin yet, and ends one that cannot begin.
func (c *Controller) postpone(ctx context.Context, m *v1alpha1.PodMigration, why error) (ctrl.Result, error) {
	if !waitsFor(m, why, time.Now()) {
		return ctrl.Result{}, c.refuse(ctx, m, why)
	}
	return ctrl.Result{RequeueAfter: lookAgain}, c.say(ctx, m, "waits: "+why.Error())
}

// waitsFor says whether what keeps a migration from beginning is waited for.
func waitsFor(m *v1alpha1.PodMigration, why error, now time.Time) bool {
	var notYet *notYetError
	if !errors.As(why, &notYet) || m.Status.StartTime == nil {
		return false
	}
	limit := patience
	if m.Spec.Timeout != nil {
		limit = min(limit, m.Spec.Timeout.Duration)
	}
	return now.Before(m.Status.StartTime.Add(limit))
}

// notReady is the error of a destination that is waited for.
func notReady(node, why string) error {
	return &notYetError{fmt.Errorf("node %s is not Ready: %s", node, why)}
}
