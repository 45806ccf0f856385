package e2e

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// restoreBreaker is an action script of a test's own, for CRIU to call beside ours. At a
// stage it does something to the restore, so many times in all.
const restoreBreaker = `#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = %s ] || exit 0
n=$(cat %[2]s 2>/dev/null || echo 0)
[ "$n" -lt %[3]d ] || exit 0
echo $((n+1)) >%[2]s
%[4]s
`

// afterCommit is a stage at which a test's script is called when the pod is committed and nothing of it has run: CRIU calls
// scripts when runc has answered its notification (criu/action-scripts.c, run_scripts), and the shim keeps the answer back
// until the commit.
const afterCommit = "post-restore"

// breakRestores has restores on a node broken at a stage, so many times. broken says how often that has happened, mend ends it.
func breakRestores(t *testing.T, n *lab.Node, stage, how string, times int) (broken func() int, mend func()) {
	t.Helper()
	const script, conf, count = "/usr/local/sbin/break-restore", "/etc/criu/runc.conf", "/root/broken-restores"
	text := fmt.Sprintf(restoreBreaker, stage, count, times, how)
	if _, err := n.Exec(t.Context(), "mkdir", "-p", "/etc/criu"); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{script: text, conf: "action-script " + script + "\n"} {
		if err := os.WriteFile(n.Path(path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mend = func() {
		for _, path := range []string{script, conf, count} {
			_ = os.Remove(n.Path(path))
		}
	}
	t.Cleanup(mend)
	return func() int {
		b, _ := os.ReadFile(n.Path(count))
		times, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return times
	}, mend
}

// A committed pod has no other place to run: a restore that hangs or fails after the
// commit is done again from the store, and the pod has everything it had.
func TestARestoreThatFailsAfterTheCommitIsDoneAgain(t *testing.T) {
	s := newScene(t)
	s.slack, s.ctx = maps.Clone(idle), within(t, 5*time.Minute)
	s.w.follow(s.p, s.to) // b has what such a pod needs
	s.w.follow(s.p, s.from)
	for _, c := range []struct {
		name, how string
		times     int
	}{
		{"CRIU is killed", "kill -KILL $PPID", 2},
		{"CRIU hangs", "kill -STOP $PPID", 1},
		{"the restored process is killed", "kill -KILL $CRTOOLS_INIT_PID", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			explain(t, s.from, s.to)
			s.t, s.p.t, s.w.t = t, t, t
			before := settled(t, s.from, s.to)
			broken, mend := breakRestores(t, s.to, afterCommit, c.how, c.times)
			s.w.awaitWrites(100)
			s.start()
			s.await("created")
			s.addressIfMoved()
			t.Log(s.awaitFunc(func(e move.Event) bool {
				return e.Kind == "note" && strings.Contains(e.Message, "restored again")
			}).Message)
			if !s.endedUnder(nil) {
				t.Fatal("the pod did not move")
			}
			if got := broken(); got != c.times {
				t.Errorf("%d restores were broken, not %d", got, c.times)
			}
			s.undone()
			s.w.awaitWrites(writeRate / 4)
			s.runsOnce()
			s.w.verifyAndGoOn()
			mend()
			s.w.follow(s.p, s.from)
			s.w.verifyAndGoOn()
			noMore(t, before, s.slack, s.from, s.to)
		})
	}
}

// Each container's restore is broken once or more: shared memory, System V objects, deleted files, sockets and forked
// processes are made again where an attempt had made them already.
func TestWhatContainersShareComesThroughARestoreThatIsDoneAgain(t *testing.T) {
	a, b := nodes(t)
	explain(t, a, b)
	p := runPod(t, a, lab.PodSpec{Name: "again", Containers: []lab.ContainerSpec{
		container(t, workload.SharedPair, workload.Port, "8"),
		container(t, workload.Filer, "7001", "inotify"),
		container(t, workload.Storm, "7002"),
	}})
	verify := func() {
		t.Helper()
		for _, port := range []string{workload.Port, "7001", "7002"} {
			t.Log(port, p.check(port))
		}
	}
	verify()
	broken, mend := breakRestores(t, b, afterCommit, "kill -KILL $PPID", 4)
	p.moveTo(b)
	if broken() < 3 {
		t.Errorf("only %d restores of three containers were broken", broken())
	}
	verify()
	mend()
	p.moveTo(a)
	verify()
}

// A restore that never succeeds is tried until the pod is removed, and nothing is left then.
func TestAPodThatCannotBeRestoredCanBeRemoved(t *testing.T) {
	s := newScene(t)
	explain(t, s.from, s.to)
	s.slack, s.ctx = maps.Clone(idle), within(t, 2*time.Minute)
	s.w.follow(s.p, s.to) // b has what such a pod needs
	s.w.follow(s.p, s.from)
	s.w.stop()
	before := settled(t, s.from, s.to)
	broken, mend := breakRestores(t, s.to, afterCommit, "kill -KILL $PPID", 1000)
	s.start()
	s.await("created")
	s.until("a third attempt", func() bool { return broken() > 2 })
	if err := s.to.RemovePod(s.ctx, s.sandbox); err != nil {
		t.Error(err)
	}
	if s.ended() {
		t.Error("a pod that never ran counts as moved")
	}
	mend()
	s.undone()
	noMore(t, before, s.slack, s.from, s.to)
}

// The same where kubelet makes the pod: one container's start was answered long ago, the other's lasts until it runs.
func TestKubernetesPodIsRestoredAgainAfterTheCommit(t *testing.T) {
	k := newKube(t)
	k.nodesUp()
	v := k.traveller("again", k.a, smallLoad)
	broken, mend := breakRestores(t, k.b, afterCommit, "kill -KILL $PPID", 3)
	m := v.ask()
	end := v.settled(m)
	if end.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Fatalf("the migration is %s: %s", end.Status.Phase, end.Status.Message)
	}
	if broken() != 3 {
		t.Errorf("%d restores were broken, not 3", broken())
	}
	k.until("an Event that tells of it", func() bool {
		return strings.Contains(k.kubectl("", "get", "events", "-o=jsonpath={.items[?(@.involvedObject.name=='"+m.Name+"')].message}"), "restored again")
	})
	v.goesOn()
	mend()
	if end := v.settled(v.ask()); end.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Fatalf("the move back is %s: %s", end.Status.Phase, end.Status.Message)
	}
	v.verify()
	k.nothingLeft()
}
