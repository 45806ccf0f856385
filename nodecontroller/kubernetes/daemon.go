package kubernetes

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// daemon is a node's daemon as Engine.
type daemon struct{ *nodecontroller.Daemon }

// EngineOf is the daemon as the controller uses it.
func EngineOf(d *nodecontroller.Daemon) Engine { return daemon{d} }

// Begin implements Engine.
func (d daemon) Begin(ctx context.Context, id string, r *nodev1.MigrateRequest, o nodecontroller.Orchestrator) (Move, error) {
	r.Migration = id
	m, err := d.Orchestrate(ctx, r, o)
	if err != nil {
		return nil, err
	}
	return move{m}, nil
}

// Active implements Engine.
func (d daemon) Active(id string) bool {
	m, known := d.Migration(id)
	return known && m.GetEndedUnixNano() == 0
}

// SetRecovered implements Engine.
func (d daemon) SetRecovered(of func(migration string) nodecontroller.Orchestrator) {
	d.SetRecoveredOrchestrator(of)
}

// move is a migration of the daemon as Move.
type move struct{ *nodecontroller.Orchestrated }

// Follow implements Move.
func (m move) Follow(ctx context.Context, f func(*nodev1.Event) error) error { return m.Events(ctx, f) }

// recoveredPlan is how a pod is moved by a migration that was begun.
func recoveredPlan(m *v1alpha1.PodMigration) Plan {
	p := Plan{Node: m.Status.DestinationNode, LatePod: m.Status.LatePod, Images: map[string]string{}}
	for _, c := range m.Status.Containers {
		p.Images[c.Name] = c.Image
	}
	return p
}

// recovered is the cluster's part in a migration that an earlier daemon began, nil
// if no PodMigration is known that asked for it: it may only not be read yet.
func (c *Controller) recovered(id string) nodecontroller.Orchestrator {
	all := new(v1alpha1.PodMigrationList)
	if err := c.client.List(c.life, all); err != nil {
		return nil
	}
	for i := range all.Items {
		m := &all.Items[i]
		if idOf(m) != id || m.Status.SourcePod == nil {
			continue
		}
		source := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Status.SourcePod.Name, UID: m.Status.SourcePod.UID}}
		return newSession(c, m, source, recoveredPlan(m))
	}
	return nil
}
