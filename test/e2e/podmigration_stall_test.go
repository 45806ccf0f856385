package e2e

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/pace"
)

// restless is a program that writes to 4 MiB of memory all the time, and leaves the processor alone most of it: of a machine
// that is a hundred times slower it asks more than any link of these tests takes as well.
const restless = `perl -e '$m = "x" x 4194304; while (1) { for ($i = 0; $i < 4194304; $i += 4096) { substr($m, $i, 1) = chr(97 + $n % 26) } $n++; select(undef, undef, undef, 0.004) }'`

// A pod that writes more than the link takes stays where it is, or is held back until it can be moved, or has what it wrote
// last fetched after its move, as its PodMigration asks.
func TestKubernetesPodMigrationsThatStall(t *testing.T) {
	k := newKube(t)
	k.nodesUp()
	manifest := counter{app: "hurries", node: k.a.Name, script: restless + " & " + ticksOf("hurries")}.pod("hurries")
	v := k.travellerOf(manifest, "hurries", k.a, smallLoad)
	narrow := atMost("2Mi")
	t.Run("rule S0, which aborts", func(t *testing.T) {
		m := v.in(t).settled(v.ask(narrow, func(m *v1alpha1.PodMigration) {
			m.Spec.PreCopy = &v1alpha1.PreCopy{
				Rule: v1alpha1.RuleS0, DowntimeLimit: &metav1.Duration{Duration: 300 * time.Millisecond}, OnStall: v1alpha1.OnStallAbort,
				MaxDuration: &metav1.Duration{Duration: time.Minute}, // the rule may see progress for long in what is none
			}
		}))
		if m.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(m.Status.Message, "rule S0") || !strings.Contains(m.Status.Message, "longer downtime limit") {
			t.Errorf("%s: %s", m.Status.Phase, m.Status.Message)
		}
	})
	t.Run("throttled", func(t *testing.T) {
		m := v.in(t).settled(v.ask(narrow, func(m *v1alpha1.PodMigration) {
			m.Spec.PreCopy = &v1alpha1.PreCopy{DowntimeLimit: &metav1.Duration{Duration: time.Second}, OnStall: v1alpha1.OnStallThrottle}
		}))
		s := m.Status
		if s.Phase != v1alpha1.PhaseSucceeded || !strings.HasPrefix(s.Throttle, "throttled to ") || strings.Contains(s.Throttle, "100 %") || !strings.Contains(s.Message, s.Throttle) || !strings.Contains(s.Message, "(predicted ") {
			t.Errorf("%s, %q: %s", s.Phase, s.Throttle, s.Message)
		}
	})
	t.Run("fetched", func(t *testing.T) {
		m := v.in(t).settled(v.ask(narrow, func(m *v1alpha1.PodMigration) {
			m.Spec.PreCopy = &v1alpha1.PreCopy{DowntimeLimit: &metav1.Duration{Duration: 50 * time.Millisecond}, OnStall: v1alpha1.OnStallPostCopy}
		}))
		s := m.Status
		if s.Phase != v1alpha1.PhaseSucceeded || s.MissingPages != 0 {
			t.Errorf("%s, %d pages missing: %s", s.Phase, s.MissingPages, s.Message)
		}
	})
	t.Run("cold, over a link that takes longer than the start of a pod may", func(t *testing.T) {
		m := v.in(t).settled(v.ask(atMost("64Ki"), func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeCold }))
		if m.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(m.Status.Message, "takes longer than its start may") || !strings.Contains(m.Status.Message, "mode Live") {
			t.Errorf("%s: %s", m.Status.Phase, m.Status.Message)
		}
		if took := m.Status.CompletionTime.Sub(m.Status.StartTime.Time); took > pace.Stretch(110*time.Second) {
			t.Errorf("it took %v to see that", took)
		}
	})
	v.in(t).verify()
	k.nothingLeft()
}
