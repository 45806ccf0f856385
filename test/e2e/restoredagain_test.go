package e2e

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
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

// breakRestores has restores on a node broken at a stage that comes after the commit, so
// many times. The returned function says how often that has happened.
func breakRestores(t *testing.T, n *lab.Node, stage, how string, times int) (broken func() int) {
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
	t.Cleanup(func() {
		for _, path := range []string{script, conf, count} {
			_ = os.Remove(n.Path(path))
		}
	})
	return func() int {
		b, _ := os.ReadFile(n.Path(count))
		times, _ := strconv.Atoi(strings.TrimSpace(string(b)))
		return times
	}
}

// A committed pod has no other place to run: a restore that hangs or fails after the
// commit is done again from the store, and the pod has everything it had.
func TestARestoreThatFailsAfterTheCommitIsDoneAgain(t *testing.T) {
	const afterCommit = "network-unlock"
	for _, c := range []struct {
		name, how string
		times     int
	}{
		{"CRIU is killed", "kill -KILL $PPID", 2},
		{"CRIU hangs", "kill -STOP $PPID", 1},
		{"the restored process is killed", "kill -KILL $CRTOOLS_INIT_PID", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := nodes(t)
			explain(t, a, b)
			before := settled(t, a, b)
			s := newScene(t)
			s.ctx = within(t, 3*time.Minute)
			broken := breakRestores(t, s.to, afterCommit, c.how, c.times)
			s.w.awaitWrites(100)
			s.start()
			s.await("created")
			s.addressIfMoved()
			trouble := s.awaitFunc(func(e move.Event) bool {
				return e.Kind == "note" && strings.Contains(e.Message, "restored again")
			})
			t.Log(trouble.Message)
			if !s.endedUnder(nil) {
				t.Fatal("the pod did not move")
			}
			if got := broken(); got != c.times {
				t.Errorf("%d restores were broken, not %d", got, c.times)
			}
			s.undone()
			s.w.awaitWrites(writeRate / 4)
			s.runsOnce()
			s.w.verify()
			removePod(s.ctx, t, s.p.name)
			noMore(t, before, maps.Clone(idle), a, b)
		})
	}
}
