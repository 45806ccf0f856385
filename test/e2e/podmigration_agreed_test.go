package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
)

// holdRestore has the next restore on a node wait, before it makes any process, until the returned function is called: so long the source
// cannot decide. After ten seconds of that a frozen pod's move is broken off.
func (v *traveller) holdRestore(n *lab.Node) (goOn func()) {
	v.t.Helper()
	const held = "/root/restore-is-held"
	breakRestores(v.t, n, "pre-restore", "while [ -e "+held+" ]; do sleep 0.02; done", 1)
	if err := os.WriteFile(n.Path(held), nil, 0o600); err != nil {
		v.t.Fatal(err)
	}
	goOn = func() { _ = os.Remove(n.Path(held)) }
	v.t.Cleanup(goOn)
	return goOn
}

// agreedTo asks for a move, and stops the pod's shim when the cluster has agreed to its commit: the source waits for it
// then, before the freeze or after it. It cannot have decided before, nor have the destination's word for it: the restore there is held.
// The returned function lets both go on.
func (v *traveller) agreedTo() (m *v1alpha1.PodMigration, goOn func()) {
	v.t.Helper()
	shim, restore := v.shim(), v.holdRestore(v.elsewhere())
	m = v.await(v.ask(briskMove), "the cluster's agreement", hasCondition(v1alpha1.ConditionAgreed))
	if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
		v.t.Fatal(err)
	}
	goOn = sync.OnceFunc(func() {
		restore()
		_ = unix.Kill(shim, unix.SIGCONT)
	})
	v.t.Cleanup(goOn)
	if m.Status.Phase != v1alpha1.PhaseMigrating {
		v.t.Fatalf("the cluster has agreed, and the PodMigration is %s", m.Status.Phase)
	}
	return m, goOn
}

// shim is the pod's, where it is now. One of a pod that is gone may still be ending beside it: it is found as the one below which the
// pod's processes are.
func (v *traveller) shim() int {
	v.t.Helper()
	pids := v.processes(v.node)
	if len(pids) != 1 {
		v.t.Fatalf("%d processes of pod %s count on node %s", len(pids), v.pod, v.node.Name)
	}
	for pid := parentOf(pids[0]); pid > 1; pid = parentOf(pid) {
		name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if strings.HasPrefix(string(name), "containerd-shim") {
			return pid
		}
	}
	v.t.Fatalf("pod %s has no shim above process %d on node %s", v.pod, pids[0], v.node.Name)
	return 0
}

// breaksOff waits until the source is about to break a migration off.
func (v *traveller) breaksOff(m *v1alpha1.PodMigration) {
	v.t.Helper()
	v.await(m, "the source breaking off", func(m *v1alpha1.PodMigration) bool {
		return m.Status.Phase.Over() || strings.Contains(m.Status.Message, "breaking off")
	})
}

// The cluster agrees to the commit before the pod is frozen. Until the source has decided everything can still end the migration, and the
// source's word, which takes the agreement back, is the last; the API server is not needed any more.
func TestKubernetesPodMigrationsEndAfterTheClusterHasAgreed(t *testing.T) {
	k := newKube(t)
	v := k.traveller("agrees", k.a, smallLoad)
	for _, c := range []struct {
		name string
		do   func(m *v1alpha1.PodMigration, goOn func())
		ends v1alpha1.Phase
		says string
	}{
		{"cancelled", func(m *v1alpha1.PodMigration, _ func()) { v.cancel(m); v.breaksOff(m) }, v1alpha1.PhaseCancelled, "cancelled"},
		{"the destination's pod deleted", func(m *v1alpha1.PodMigration, _ func()) {
			v.k.kubectl("", "delete", "pod", m.Status.DestinationPod.Name, "--wait=false")
			v.breaksOff(m)
		}, v1alpha1.PhaseFailed, "was deleted"},
		{"the source's daemon killed", func(*v1alpha1.PodMigration, func()) { v.killDaemon(v.node) }, v1alpha1.PhaseFailed, "restarted"},
		{"the destination's daemon killed", func(m *v1alpha1.PodMigration, _ func()) { v.killDaemon(v.elsewhere()); v.breaksOff(m) }, v1alpha1.PhaseFailed, ""},
		{"the API server away", func(m *v1alpha1.PodMigration, goOn func()) {
			record := v.node.Path("/run/godwit/migrations/pm-" + string(m.UID) + ".json")
			// The agreement is seen before the source has its answer, which it waits for: by the time that twenty others have theirs
			// who asked later, it has it.
			for range 20 {
				if err := v.user.Get(within(v.t, time.Minute), client.ObjectKeyFromObject(m), new(v1alpha1.PodMigration)); err != nil {
					v.t.Fatal(err)
				}
			}
			back := v.stopAPI()
			goOn()
			v.k.until("the commit", func() bool {
				b, err := os.ReadFile(record)
				return err == nil && strings.Contains(string(b), "source-committed")
			})
			back()
		}, v1alpha1.PhaseSucceeded, "moved"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v.in(t).k.nodesUp()
			m, goOn := v.agreedTo()
			c.do(m, goOn)
			goOn()
			end := v.settled(m)
			if end.Status.Phase != c.ends || !strings.Contains(end.Status.Message, c.says) {
				t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
			}
			if agreed := meta.IsStatusConditionTrue(end.Status.Conditions, v1alpha1.ConditionAgreed); agreed != (c.ends == v1alpha1.PhaseSucceeded) {
				t.Errorf("it is %s, and agreed to: %v", end.Status.Phase, agreed)
			}
		})
	}
	v.in(t)
	v.verify()
	v.k.nothingLeft()
}
