package e2e

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
)

// moment is one of a migration's.
type moment struct {
	name string
	is   func(*v1alpha1.PodMigration) bool
}

// moments are all that an object shows, from its making on.
var moments = []moment{
	{"made", func(*v1alpha1.PodMigration) bool { return true }},
	{"pending", reached(v1alpha1.PhasePending)},
	{"preparing", reached(v1alpha1.PhasePreparing)},
	{"started", reached(v1alpha1.PhaseStarted)},
	{"in the rounds", inRounds},
	{"parked", hasCondition(v1alpha1.ConditionParked)},
	{"converged", hasCondition(v1alpha1.ConditionConverged)},
	{"frozen", isFrozen}, // and agreed to
	{"committed", reached(v1alpha1.PhaseMigrationComplete)},
}

// convergedAt is the moment at which the rounds have ended.
const convergedAt = 6

// What breaks a move of a pod, at every moment. One pod goes through all of it, wherever it is by then.
func TestKubernetesPodMigrationsBreak(t *testing.T) {
	k := newKube(t)
	v := k.traveller("endures", k.a, smallLoad)
	for _, c := range []struct {
		name string
		do   func(v *traveller, m *v1alpha1.PodMigration)
		// ends is what it ends as if it is done before the pod is frozen: then, and from there on, either may be first.
		ends v1alpha1.Phase
	}{
		{"cancelled", (*traveller).cancel, v1alpha1.PhaseCancelled},
		{"deleted", (*traveller).delete, v1alpha1.PhaseCancelled},
		{"the source's daemon killed", func(v *traveller, m *v1alpha1.PodMigration) { v.killDaemon(v.node) }, ""},
		{"the destination's daemon killed", func(v *traveller, m *v1alpha1.PodMigration) { v.killDaemon(v.elsewhere()) }, ""},
	} {
		for i, at := range moments {
			t.Run(c.name+" when it is "+at.name, func(t *testing.T) {
				v.in(t).k.nodesUp()
				slow := slowMove
				switch {
				case i >= convergedAt: // the rounds only take time
					slow = briskMove
				case c.ends != "": // it must not be too late
					slow = crawl
				}
				m := v.await(v.ask(slow), "the migration "+at.name, at.is)
				if m == nil || m.Status.Phase.Over() && at.name != "committed" {
					t.Fatalf("it was over before it was %s: %+v", at.name, m)
				}
				c.do(v, m)
				end := v.settled(m)
				switch {
				case end == nil || c.ends == "":
				case i < convergedAt && end.Status.Phase != c.ends:
					t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
				case at.name == "committed" && end.Status.Phase != v1alpha1.PhaseSucceeded:
					t.Errorf("it was committed and is %s: %s", end.Status.Phase, end.Status.Message)
				}
			})
		}
	}
	t.Run("the destination's pod deleted when it is parked", func(t *testing.T) {
		v.in(t).k.nodesUp()
		m := v.await(v.ask(crawl), "the pod parked", hasCondition(v1alpha1.ConditionParked))
		k.kubectl("", "delete", "pod", m.Status.DestinationPod.Name, "--wait=false")
		if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseFailed {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
	})
	t.Run("and then it moves as if nothing had been", func(t *testing.T) {
		v.in(t).k.nodesUp()
		for range 2 {
			if end := v.settled(v.ask()); end.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
			}
		}
		v.verify()
		v.k.nothingLeft()
	})
}

func (v *traveller) cancel(m *v1alpha1.PodMigration) {
	v.t.Helper()
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"cancel":true}}`))
	if err := v.user.Patch(within(v.t, time.Minute), m.DeepCopy(), patch); err != nil {
		v.t.Fatal(err)
	}
}

// delete asks for the object's deletion, and sees later that it goes.
func (v *traveller) delete(m *v1alpha1.PodMigration) {
	v.t.Helper()
	if err := v.user.Delete(within(v.t, time.Minute), m.DeepCopy()); err != nil {
		v.t.Fatal(err)
	}
	if left := v.await(m, "the object's end", func(*v1alpha1.PodMigration) bool { return false }); left != nil {
		v.t.Errorf("it is still there: %+v", left)
	}
}

func (v *traveller) killDaemon(n *lab.Node) {
	v.t.Helper()
	if !n.KillDaemon() {
		v.t.Fatalf("node %s has no godwit-node to kill", n.Name)
	}
}

// stopAPI stops the API server where it is, so that nobody is answered; the returned function lets it go on.
func (v *traveller) stopAPI() (goOn func()) {
	v.t.Helper()
	pid := pidOf(v.t, v.k.Control(), "kube-apiserver", "")
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		v.t.Fatal(err)
	}
	goOn = func() { _ = unix.Kill(pid, unix.SIGCONT) }
	v.t.Cleanup(goOn)
	return goOn
}

// The API server is away while a pod is moved.
func TestKubernetesPodMigrationsWithoutAnAPIServer(t *testing.T) {
	k := newKube(t)
	v := k.traveller("waits", k.a, smallLoad)
	t.Run("for 20 s during the rounds", func(t *testing.T) {
		v.in(t).k.nodesUp()
		m := v.await(v.ask(crawl), "the rounds", inRounds)
		goOn := v.stopAPI()
		time.Sleep(20 * time.Second) // this is what is tried
		goOn()
		if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseSucceeded {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
	})
	for _, at := range []moment{
		{"parked", hasCondition(v1alpha1.ConditionParked)},
		{"frozen", isFrozen},
	} {
		t.Run("across the commit, from when it is "+at.name, func(t *testing.T) {
			v.in(t).k.nodesUp()
			m := v.await(v.ask(slowMove), "the migration "+at.name, at.is)
			goOn := v.stopAPI()
			time.Sleep(10 * time.Second)
			goOn()
			v.settled(m)
		})
		t.Run("killed when it is "+at.name, func(t *testing.T) {
			v.in(t).k.nodesUp()
			m := v.await(v.ask(slowMove), "the migration "+at.name, at.is)
			if !k.Control().KillService("kube-apiserver") {
				t.Fatal("no kube-apiserver to kill")
			}
			v.k.until("the API server back", func() bool {
				return v.user.Get(t.Context(), client.ObjectKeyFromObject(m), new(v1alpha1.PodMigration)) == nil
			})
			v.settled(m)
		})
	}
	t.Run("and the source's daemon dies meanwhile", func(t *testing.T) {
		v.in(t).k.nodesUp()
		m := v.await(v.ask(crawl), "the rounds", inRounds)
		goOn := v.stopAPI()
		v.killDaemon(v.node)
		time.Sleep(5 * time.Second)
		goOn()
		if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseFailed {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
	})
	v.in(t)
	v.verify()
	v.k.nothingLeft()
}
