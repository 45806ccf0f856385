package admission

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// newPod is a pod of class godwit that owner "u" of the given kind makes.
func newPod(kind string, change ...func(*corev1.Pod)) *corev1.Pod {
	class, yes := v1alpha1.RuntimeClass, true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", GenerateName: "web-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: "web", UID: "u", Controller: &yes}},
		},
		Spec: corev1.PodSpec{RuntimeClassName: &class, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

// open is a migration that waits for a pod of owner "u".
func open(name, kind string, age time.Duration, change ...func(*v1alpha1.PodMigration)) v1alpha1.PodMigration {
	m := v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(start.Add(-age))},
		Spec:       v1alpha1.PodMigrationSpec{PodName: "web-abcde"},
		Status: v1alpha1.PodMigrationStatus{
			Phase: v1alpha1.PhaseMigrating, Migration: "id-" + name, SourceNode: "a", DestinationNode: "b",
			SourcePod: &v1alpha1.PodReference{Name: "web-abcde", UID: "p"},
			Owner:     &v1alpha1.Owner{APIVersion: "apps/v1", Kind: kind, Name: "web", UID: "u"},
			Claim:     v1alpha1.ClaimOpen,
		},
	}
	for _, f := range change {
		f(&m)
	}
	return m
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestWhichMigrationAPodClaims(t *testing.T) {
	type (
		pods       = func(*corev1.Pod)
		migrations = func(*v1alpha1.PodMigration)
	)
	named := func(p *corev1.Pod) { p.Name = "web-0" }
	from := func(name string) migrations {
		return func(m *v1alpha1.PodMigration) { m.Status.SourcePod.Name = name }
	}
	index := func(p *corev1.Pod) {
		p.GenerateName = "web-1-"
		p.Annotations = map[string]string{"batch.kubernetes.io/job-completion-index": "1"}
	}
	taken := func(m *v1alpha1.PodMigration) { m.Status.Claim = v1alpha1.ClaimTaken }
	cancelled := func(m *v1alpha1.PodMigration) { m.Spec.Cancel = true }
	deleted := func(m *v1alpha1.PodMigration) { m.DeletionTimestamp = &metav1.Time{Time: start} }
	there := func(m *v1alpha1.PodMigration) {
		m.Status.DestinationPod = &v1alpha1.PodReference{Name: "web-0", UID: "q"}
	}
	restored := func(m *v1alpha1.PodMigration) {
		m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionRestored, Status: metav1.ConditionTrue}}
	}
	committed := func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseMigrationComplete }
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		all  []v1alpha1.PodMigration
		want string
	}{
		"none there":                                     {newPod("ReplicaSet"), nil, ""},
		"the oldest":                                     {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 1), open("b", "ReplicaSet", time.Hour)}, "b"},
		"of one age the first":                           {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("b", "ReplicaSet", 0), open("a", "ReplicaSet", 0)}, "a"},
		"without a controller none":                      {newPod("ReplicaSet", func(p *corev1.Pod) { p.OwnerReferences[0].Controller = nil }), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0)}, ""},
		"of another owner none":                          {newPod("ReplicaSet", func(p *corev1.Pod) { p.OwnerReferences[0].UID = "v" }), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0)}, ""},
		"of another class none":                          {newPod("ReplicaSet", func(p *corev1.Pod) { *p.Spec.RuntimeClassName = "runc" }), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0)}, ""},
		"of no class none":                               {newPod("ReplicaSet", func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0)}, ""},
		"not a taken one":                                {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 9, taken), open("b", "ReplicaSet", 0)}, "b"},
		"not one without a claim":                        {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 9, func(m *v1alpha1.PodMigration) { m.Status.Claim = "" })}, ""},
		"not one that has ended":                         {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 9, func(m *v1alpha1.PodMigration) { m.Status.Phase = v1alpha1.PhaseFailed })}, ""},
		"not one without a node":                         {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 9, func(m *v1alpha1.PodMigration) { m.Status.DestinationNode = "" })}, ""},
		"not a cancelled one":                            {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0, cancelled)}, ""},
		"not a deleted one":                              {newPod("ReplicaSet"), []v1alpha1.PodMigration{open("a", "ReplicaSet", 0, deleted)}, ""},
		"a committed one, whatever is asked of it":       {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 0, committed, cancelled, deleted, from("web-0"))}, "a"},
		"one agreed to, whatever is asked of it":         {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 0, agreed, cancelled, deleted, from("web-0"))}, "a"},
		"a set's pod that of its name":                   {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 9, from("web-1")), open("b", "StatefulSet", 0, from("web-0"))}, "b"},
		"a set's pod its own again":                      {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 0, taken, from("web-0"))}, "a"},
		"again, when the pod was there and not restored": {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 0, committed, taken, from("web-0"), there)}, "a"},
		"not when it was restored":                       {newPod("StatefulSet", named), []v1alpha1.PodMigration{open("a", "StatefulSet", 0, committed, taken, from("web-0"), there, restored)}, ""},
		"a job's pod":                                    {newPod("Job"), []v1alpha1.PodMigration{open("a", "Job", 0)}, "a"},
		"an index that of its number":                    {newPod("Job", pods(index)), []v1alpha1.PodMigration{open("a", "Job", 9, from("web-11-abcde")), open("b", "Job", 8, from("web-1-1-abcde")), open("c", "Job", 0, from("web-1-abcde"))}, "c"},
	} {
		got := ""
		if m := claimable(c.pod, c.all); m != nil {
			got = m.Name
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A field that this program's API does not have must survive the change.
func TestAnArrivalTouchesNothingElse(t *testing.T) {
	pod := newPod("ReplicaSet")
	m := open("a", "ReplicaSet", 0)
	patches, err := arrival(pod, &m, "web-abcde")
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, p := range patches {
		if p.Operation != "add" {
			t.Errorf("it takes away or replaces: %s", p.Json())
		}
		paths[p.Path] = true
	}
	for _, want := range []string{"/metadata/annotations", "/spec/affinity", "/spec/hostname"} {
		if !paths[want] {
			t.Errorf("%s is not changed", want)
		}
	}
	if len(paths) != 3 {
		text, _ := json.Marshal(patches)
		t.Errorf("changes: %s", text)
	}
}
