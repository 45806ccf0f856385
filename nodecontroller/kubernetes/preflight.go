package kubernetes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// preflight looks at objects; what the nodes are, and what is in the pod's
// processes, the daemons see for themselves.
type preflight struct {
	reader client.Reader
	node   string
}

// Check implements Preflight.
func (p *preflight) Check(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) (Plan, error) {
	plan := Plan{Node: m.Spec.TargetNode}
	if plan.Node == p.node {
		return plan, fmt.Errorf("pod %s is on node %s already", pod.Name, p.node)
	}
	return plan, nil
}
