package e2e

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cutover"
)

// A bare pod goes to the other node and back, by objects alone.
func TestKubernetesPodMigrations(t *testing.T) {
	k := newKube(t)
	v := k.traveller("wanders", k.a, sceneLoad)
	masked := v.masked()
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.PodMigration)
		engine string
	}{
		{"live to the node that is named", func(*v1alpha1.PodMigration) {}, "WriteProtect"},
		{"live to a node of its choice", func(m *v1alpha1.PodMigration) { m.Spec.TargetNode = "" }, "WriteProtect"},
		{"live, compared with CRIU's own dump", func(m *v1alpha1.PodMigration) { m.Spec.CompareDump = true }, "WriteProtect"},
		{"cold to the node that is named", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeCold }, "None"},
		{"cold to a node of its choice", func(m *v1alpha1.PodMigration) {
			m.Spec.Mode, m.Spec.TargetNode = v1alpha1.ModeCold, ""
		}, "None"},
		{"hybrid", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeHybrid }, "WriteProtect"},
		{"by post-copy", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModePostCopy }, "None"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := v.in(t)
			from, to, source := v.node.Name, v.elsewhere().Name, v.get()
			m := v.settled(v.ask(c.change))
			if m.Status.Phase != v1alpha1.PhaseSucceeded || m.Status.SourceNode != from || m.Status.DestinationNode != to {
				t.Fatalf("%s from %s to %s: %s", m.Status.Phase, m.Status.SourceNode, m.Status.DestinationNode, m.Status.Message)
			}
			checkStatus(t, m, source, v.get(), c.engine)
			v.checkEvents(m)
			if m.Spec.CompareDump {
				v.checkEvents(m, "Compared")
			}
		})
	}
	v.in(t)
	if out := k.kubectl("", "exec", v.pod, "-c=ticks", "--", "hostname"); out != "wanders" {
		t.Errorf("its processes' host name was wanders, and kubectl exec sees %s", out)
	}
	if now := v.masked(); len(masked) < 2 || !slices.Equal(now, masked) {
		t.Errorf("of /proc and /sys %q were masked, and are now %q", masked, now)
	}
	v.goesOn()
	v.verify()
	k.nothingLeft()
}

// masked are the directories of /proc and /sys that a container does not see, each with what its processes see of what is mounted over it.
func (v *traveller) masked() []string {
	v.t.Helper()
	var all []string
	for line := range strings.Lines(v.k.kubectl("", "exec", v.pod, "-c=ticks", "--", "cat", "/proc/self/mounts")) {
		if f := strings.Fields(line); len(f) > 3 && f[2] == "tmpfs" && strings.Contains(f[3], "nr_inodes=1") {
			all = append(all, f[1]+" "+f[3]+" "+v.k.kubectl("", "exec", v.pod, "-c=ticks", "--", "ls", "-A", f[1]))
		}
	}
	slices.Sort(all)
	return all
}

// checkStatus sees that the status of a migration that succeeded has everything.
func checkStatus(t *testing.T, m *v1alpha1.PodMigration, source, destination *corev1.Pod, engine string) {
	t.Helper()
	s := m.Status
	for _, c := range []string{
		v1alpha1.ConditionTakenUp, v1alpha1.ConditionMovable, v1alpha1.ConditionPrepared, v1alpha1.ConditionParked, v1alpha1.ConditionConverged,
		v1alpha1.ConditionAgreed, v1alpha1.ConditionCommitted, v1alpha1.ConditionCleaned,
	} {
		if !meta.IsStatusConditionTrue(s.Conditions, c) {
			t.Errorf("condition %s is not true: %+v", c, s.Conditions)
		}
	}
	if s.StopReason == "" || engine != "None" && (len(s.Rounds) == 0 || s.Rounds[0].Bytes == 0 || s.Rounds[0].DirtyPages == 0) {
		t.Errorf("rounds %+v, ended because %q", s.Rounds, s.StopReason)
	}
	if s.Engine != engine || s.EngineReason == "" {
		t.Errorf("engine %q because %q, want %s", s.Engine, s.EngineReason, engine)
	}
	if s.SourcePod == nil || s.SourcePod.UID != source.UID || s.DestinationPod == nil || s.DestinationPod.UID != destination.UID || s.DestinationPod.IP != destination.Status.PodIP {
		t.Errorf("from pod %+v to pod %+v, they are %s and %s", s.SourcePod, s.DestinationPod, source.UID, destination.UID)
	}
	if s.Downtime == nil || s.Downtime.Duration <= 0 || s.Total == nil || s.Total.Duration < s.Downtime.Duration {
		t.Errorf("downtime %v, total %v", s.Downtime, s.Total)
	} else {
		t.Logf("downtime %v, total %v", s.Downtime.Duration, s.Total.Duration)
	}
	if len(s.Stages) < 5 || !slices.ContainsFunc(s.Stages, func(stage v1alpha1.Stage) bool {
		return stage.Name == string(cutover.Restore) && stage.Duration.Duration > 0
	}) {
		t.Errorf("stages of the cutover: %+v", s.Stages)
	}
	if s.StartTime == nil || s.CommitTime == nil || s.CompletionTime == nil || s.BytesSent == 0 || s.MemoryBytes == 0 {
		t.Errorf("started %v, committed %v, completed %v, %d bytes of memory, %d sent", s.StartTime, s.CommitTime, s.CompletionTime, s.MemoryBytes, s.BytesSent)
	}
	if want := "pod " + source.Name + " moved from " + s.SourceNode + " to " + s.DestinationNode; !strings.HasPrefix(s.Message, want) || !strings.Contains(s.Message, "downtime") || !strings.Contains(s.Message, "sent") {
		t.Errorf("it says %q", s.Message)
	}
	for _, c := range s.Containers {
		if c.State != v1alpha1.ContainerMoved || !strings.Contains(c.Image, "@sha256:") {
			t.Errorf("container %+v", c)
		}
	}
	if len(s.Containers) != len(source.Spec.Containers) {
		t.Errorf("%d containers", len(s.Containers))
	}
}

// checkEvents sees that people are told.
func (v *traveller) checkEvents(m *v1alpha1.PodMigration, more ...string) {
	v.t.Helper()
	wanted := append([]string{"Accepted", "Preparing", "Prepared", "Parked", "Freezing", "Committed", "Resumed", "Succeeded"}, more...)
	v.k.until("Events "+strings.Join(wanted, ", "), func() bool {
		all := new(corev1.EventList)
		if err := v.user.List(v.t.Context(), all, client.InNamespace(m.Namespace)); err != nil {
			v.t.Fatal(err)
		}
		told := map[string]bool{}
		for _, e := range all.Items {
			if e.InvolvedObject.UID == m.UID {
				told[e.Reason] = true
			}
		}
		for _, reason := range wanted {
			if !told[reason] {
				return false
			}
		}
		return true
	})
}
