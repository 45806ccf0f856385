package e2e

import (
	"testing"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// A restore is started before the freeze, and waits for the images. One that dies over them, before the commit, is no
// reason not to move: the container is restored from the beginning.
func TestARestoreThatWasStartedAheadAndDiesIsDoneFromTheBeginning(t *testing.T) {
	a, b := nodes(t)
	explain(t, a, b)
	p := runPod(t, a, lab.PodSpec{Name: "ahead", Containers: []lab.ContainerSpec{
		container(t, workload.SharedPair, workload.Port, "8"),
		container(t, workload.Filer, "7001", "inotify"),
	}})
	verify := func() {
		t.Helper()
		for _, port := range []string{workload.Port, "7001"} {
			t.Log(port, p.check(port))
		}
	}
	verify()
	// CRIU calls its script there when it has the inventory and before it makes any process.
	broken, mend := breakRestores(t, b, "pre-restore", "kill -KILL $PPID", 1)
	p.moveTo(b)
	if got := broken(); got != 1 {
		t.Errorf("%d restores were broken, not one", got)
	}
	verify()
	mend()
	p.moveTo(a)
	verify()
}
