package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// agreed has the cluster have agreed to a migration's commit.
func agreed(m *v1alpha1.PodMigration) {
	m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionAgreed, Status: metav1.ConditionTrue})
}

// An owner's next pod must not start afresh while the one that took the claim has not been seen.
func TestWhichMigrationWaitsForAPodThatNobodyHasSeen(t *testing.T) {
	taken := func(kind string, change ...func(*v1alpha1.PodMigration)) v1alpha1.PodMigration {
		return open("a", kind, 0, append([]func(*v1alpha1.PodMigration){func(m *v1alpha1.PodMigration) { m.Status.Claim = v1alpha1.ClaimTaken }}, change...)...)
	}
	cancel := func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true }
	commit := func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseMigrationComplete }
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		m    v1alpha1.PodMigration
		want bool
	}{
		"a ReplicaSet's":               {newPod("ReplicaSet"), taken("ReplicaSet"), true},
		"a Job's":                      {newPod("Job"), taken("Job"), true},
		"a set's, known by its name":   {newPod("StatefulSet", func(p *corev1.Pod) { p.Name = "web-abcde" }), taken("StatefulSet"), false},
		"one whose pod is there":       {newPod("ReplicaSet"), taken("ReplicaSet", func(m *v1alpha1.PodMigration) { m.Status.DestinationPod = &v1alpha1.PodReference{Name: "x"} }), false},
		"one whose claim is open":      {newPod("ReplicaSet"), taken("ReplicaSet", func(m *v1alpha1.PodMigration) { m.Status.Claim = v1alpha1.ClaimOpen }), false},
		"one that is over":             {newPod("ReplicaSet"), taken("ReplicaSet", func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseFailed }), false},
		"one that is cancelled":        {newPod("ReplicaSet"), taken("ReplicaSet", cancel), false},
		"one that is committed":        {newPod("ReplicaSet"), taken("ReplicaSet", commit, cancel), true},
		"one that is agreed to":        {newPod("ReplicaSet"), taken("ReplicaSet", agreed, cancel), true},
		"another owner's":              {newPod("ReplicaSet", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "v" }), taken("ReplicaSet"), false},
		"a pod of another class":       {newPod("ReplicaSet", func(p *corev1.Pod) { *p.Spec.RuntimeClassName = "runc" }), taken("ReplicaSet"), false},
		"a pod without its controller": {newPod("ReplicaSet", func(p *corev1.Pod) { p.OwnerReferences = nil }), taken("ReplicaSet"), false},
	} {
		if got := awaited(c.pod, []v1alpha1.PodMigration{c.m}); (got != nil) != c.want {
			t.Errorf("%s: %v, want %v", name, got != nil, c.want)
		}
	}
}
