package lab

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDownLeavesNothingOfAKilledCluster kills of everything one; the cleanup of the lab does the checking.
func TestDownLeavesNothingOfAKilledCluster(t *testing.T) {
	o := newTestCluster(t)
	l, c := upCluster(t, o)
	addWeb(t, l)
	kubectl(t, c, singlePod("single", "runc"), "apply", "-f", "-")
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", "single", "--timeout=170s")
	victims := []int{
		l.Node("a").ServicePID("kubelet"), l.Node("b").ServicePID("kube-proxy"), l.Node("b").PID(),
		c.Control().ServicePID("etcd"), c.Control().PID(),
	}
	for _, pid := range victims {
		if pid <= 0 {
			t.Fatalf("something to kill does not run: %v", victims)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH { // one may take another with it
			t.Fatal(err)
		}
	}
}

// TestUpOfAClusterCanBeKilledAtAnyMoment kills an up later and later; whatever it left, the next one, or down, works.
func TestUpOfAClusterCanBeKilledAtAnyMoment(t *testing.T) {
	o := newTestCluster(t)
	start := time.Now()
	upCluster(t, o) // the cache is filled now, with the lab's own time of up
	whole := time.Since(start)
	const parts = 5
	for i := 1; i < parts; i++ {
		if err := Down(t.Context(), o.Dir); err != nil {
			t.Fatal(err)
		}
		wantNoTrace(t, o)
		cmd := upAlone(t, o)
		timer := time.AfterFunc(whole*time.Duration(i)/parts, func() { cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		if i%2 == 0 { // down at once is as good as up first
			_, c := upCluster(t, o)
			kubectl(t, c, "", "wait", "--for=condition=Ready", "node", "--all", "--timeout=170s")
		}
	}
}
