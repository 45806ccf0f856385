package kubernetes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/queue"
)

// begin checks a pending migration and has the daemon begin it. One that cannot
// be carried out fails before anything is touched.
func (c *Controller) begin(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) (ctrl.Result, error) {
	if pod == nil {
		return ctrl.Result{}, c.end(ctx, m, v1alpha1.PhaseFailed, fmt.Sprintf("pod %s is no longer on node %s", m.Spec.PodName, c.node))
	}
	if other, err := c.other(ctx, m); err != nil || other != "" {
		if err == nil {
			err = c.end(ctx, m, v1alpha1.PhaseFailed, fmt.Sprintf("pod %s is being moved by PodMigration %s already", pod.Name, other))
		}
		return ctrl.Result{}, err
	}
	if position := c.reserve(m, time.Now()); position > 0 {
		return ctrl.Result{RequeueAfter: lookAgain}, c.say(ctx, m, queue.Message(position, c.node))
	}
	s, err := c.startSession(ctx, m, pod)
	if err != nil {
		c.forget(m.UID)
		return c.postpone(ctx, m, err)
	}
	c.work.Go(s.follow)
	return ctrl.Result{}, nil
}

// other is a PodMigration that came before and moves the same pod, if there is
// one.
func (c *Controller) other(ctx context.Context, m *v1alpha1.PodMigration) (string, error) {
	all := new(v1alpha1.PodMigrationList)
	if err := c.client.List(ctx, all, client.InNamespace(m.Namespace)); err != nil {
		return "", fmt.Errorf("PodMigrations: %w", err)
	}
	for i := range all.Items {
		o := &all.Items[i]
		same := o.Status.SourcePod != nil && o.Status.SourcePod.UID == m.Status.SourcePod.UID
		if o.UID == m.UID || !same || o.Status.Phase.Over() {
			continue
		}
		if o.Status.Phase != v1alpha1.PhasePending || before(o, m) {
			return o.Name, nil
		}
	}
	return "", nil
}

// before orders PodMigrations by age.
func before(a, b *v1alpha1.PodMigration) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

// forget gives a place back.
func (c *Controller) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, uid)
}

// startSession has the daemon begin.
func (c *Controller) startSession(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) (*session, error) {
	plan, err := c.check.Check(ctx, m, pod)
	if err != nil {
		return nil, err
	}
	if plan.Images, err = c.engine.PinnedImages(ctx, pod.Namespace+"/"+pod.Name); err != nil {
		return nil, fmt.Errorf("images of pod %s: %w", pod.Name, err)
	}
	s := newSession(c, m, pod, plan)
	err = s.update(ctx, func(m *v1alpha1.PodMigration) error {
		m.Status.DestinationNode, m.Status.LatePod = plan.Node, plan.LatePod
		for i := range m.Status.Containers {
			m.Status.Containers[i].Image = plan.Images[m.Status.Containers[i].Name]
		}
		meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionMovable, Status: metav1.ConditionTrue, Reason: "Checked", Message: movableMessage(plan), ObservedGeneration: m.Generation,
		})
		return nil
	})
	if err != nil {
		return nil, err
	}
	request := requestOf(m, pod.Namespace+"/"+pod.Name, plan.Node)
	request.LatePod = plan.LatePod
	if s.move, err = c.engine.Begin(ctx, idOf(m), request, s); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.sessions[m.UID] = s
	c.mu.Unlock()
	return s, nil
}

func movableMessage(p Plan) string {
	text := "nothing is known against it"
	for _, w := range p.Warnings {
		text += "; " + w
	}
	return text
}

// refuse ends a migration that cannot begin; an API server that does not answer
// is no reason for that.
func (c *Controller) refuse(ctx context.Context, m *v1alpha1.PodMigration, why error) error {
	if transient(why) {
		return why
	}
	live := new(v1alpha1.PodMigration)
	if err := c.reader.Get(ctx, client.ObjectKeyFromObject(m), live); err != nil {
		return client.IgnoreNotFound(err)
	}
	meta.SetStatusCondition(&live.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionMovable, Status: metav1.ConditionFalse, Reason: "Refused", Message: why.Error(), ObservedGeneration: m.Generation,
	})
	return c.end(ctx, live, v1alpha1.PhaseFailed, why.Error())
}

// say changes a status's message.
func (c *Controller) say(ctx context.Context, m *v1alpha1.PodMigration, message string) error {
	if m.Status.Message == message {
		return nil
	}
	m = m.DeepCopy()
	m.Status.Message = message
	return ignoreConflict(c.client.Status().Update(ctx, m))
}
