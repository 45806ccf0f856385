package e2e

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab"
)

// hangDumps is an action script of a test's own, for CRIU to call beside ours: it stops the CRIU that dumps when that holds
// the pod's processes, and says which it was.
const hangDumps = `#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-dump ] || exit 0
echo $PPID >%s
kill -STOP $PPID
`

// A CRIU that hangs while the pod is frozen, on either side, costs the pod some seconds: then it runs on, and nothing is left.
func TestAHangWhileThePodIsFrozenBreaksTheMoveOff(t *testing.T) {
	s := newScene(t)
	s.w.follow(s.p, s.to) // b has what such a pod needs
	s.w.follow(s.p, s.from)
	for _, c := range []struct {
		name string
		hang func() (happened func() bool, mend func())
		says string
	}{
		{"the source's CRIU", s.hangDump, "CRIU has dumped 0 of 1 containers"},
		{"the destination's CRIU", s.hangRestore, "has not restored the pod"},
	} {
		t.Run(c.name, func(t *testing.T) {
			explain(t, s.from, s.to)
			s.t, s.p.t, s.w.t, s.slack = t, t, t, maps.Clone(idle)
			s.ctx = within(t, 4*time.Minute)
			before := settled(t, s.from, s.to)
			s.w.awaitWrites(100)
			hung, mend := c.hang()
			s.start()
			s.await("freezing")
			s.until("the hang", hung)
			if e := s.await("note"); !strings.Contains(e.Message, "nothing has got on") || !strings.Contains(e.Message, c.says) {
				t.Errorf("it was broken off with %q", e.Message)
			}
			mend()
			if s.ended() {
				t.Fatal("the pod was moved all the same")
			}
			s.undone()
			s.w.awaitWrites(writeRate / 4)
			s.runsOnce()
			s.w.verifyAndGoOn()
			noMore(t, before, s.slack, s.from, s.to)
			s.w.follow(s.p, s.to)
			s.w.follow(s.p, s.from)
			s.w.verifyAndGoOn()
		})
	}
}

// hangDump has the source's next CRIU hang while it dumps.
func (s *scene) hangDump() (hung func() bool, mend func()) {
	const stopped = "/root/stopped-criu"
	mend = s.callAlso(s.from, fmt.Sprintf(hangDumps, stopped), stopped)
	return func() bool {
		b, err := os.ReadFile(s.from.Path(stopped))
		return err == nil && len(b) > 0
	}, mend
}

// hangRestore has the destination's next CRIU hang while it restores.
func (s *scene) hangRestore() (hung func() bool, mend func()) {
	broken, mend := breakRestores(s.t, s.to, "post-setup-namespaces", "kill -STOP $PPID", 1)
	return func() bool { return broken() == 1 }, mend
}

// callAlso has a node's CRIU call a script at each of its stages.
func (s *scene) callAlso(n *lab.Node, text string, files ...string) (mend func()) {
	s.t.Helper()
	const script, conf = "/usr/local/sbin/also", "/etc/criu/runc.conf"
	if err := os.MkdirAll(n.Path("/etc/criu"), 0o755); err != nil {
		s.t.Fatal(err)
	}
	for path, text := range map[string]string{script: text, conf: "action-script " + script + "\n"} {
		if err := os.WriteFile(n.Path(path), []byte(text), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	mend = func() {
		for _, path := range append(files, script, conf) {
			_ = os.Remove(n.Path(path))
		}
	}
	s.t.Cleanup(mend)
	return mend
}
