package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
)

// outcome is what may come of a migration that something happens to.
type outcome int

const (
	runsOn outcome = iota // the source runs on
	either                // it came too late, or not: one of the two runs
)

// failures are what happens, each at a moment that the migration itself tells.
var failures = []struct {
	name  string
	flags []string
	want  outcome
	// happen runs until it has happened, and returns what puts the world in order again; nil for nothing.
	happen func(s *scene) (mend func())
}{
	{"the destination's shim is killed while it is parked", slowly, runsOn, func(s *scene) func() {
		s.await("created")
		s.killShim()
		return nil
	}},
	{"the destination's shim is killed during the rounds", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		s.killShim()
		return nil
	}},
	{"the destination's shim is killed while it restores", nil, either, func(s *scene) func() {
		s.killRestoring()
		return nil
	}},
	{"the destination's shim is killed while it holds the pod", nil, either, func(s *scene) func() {
		if goOn, late := s.held(); !late {
			s.killShim()
			goOn()
		}
		return nil
	}},
	{"the destination's daemon is killed during the rounds", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		s.killDaemon(s.to)
		return nil
	}},
	{"the destination's daemon is killed while the pod is frozen", nil, either, func(s *scene) func() {
		s.frozen()
		s.killDaemon(s.to)
		return nil
	}},
	{"the destination's daemon is killed while the pod is held", nil, either, func(s *scene) func() {
		goOn, _ := s.held()
		s.killDaemon(s.to)
		goOn()
		return nil
	}},
	{"the source's daemon is killed during the rounds", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		s.killDaemon(s.from)
		return nil
	}},
	{"the source's daemon is killed while the pod is frozen", nil, either, func(s *scene) func() {
		if !s.frozen() { // else it has gone through, and who asked would not hear of it
			s.killDaemon(s.from)
		}
		return nil
	}},
	{"the network is cut during the rounds", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		mend := s.cut()
		s.await("note") // it breaks off
		return mend
	}},
	{"the network is cut while the pod is frozen", nil, either, func(s *scene) func() {
		if s.frozen() {
			return nil
		}
		mend := s.cut()
		s.addressIfMoved()
		s.runsOrInDoubt(100) // it runs on, also without the network
		return mend
	}},
	{"the destination's store is too small", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		// The store has half of the pod's size more than the pod, and 256 MiB.
		if out, code := execIn(s.t, s.from, s.p.Container("redis").ID, "redis-cli", "debug", "populate", "400000", "x", "1024"); code != 0 || !strings.Contains(out, "OK") {
			s.t.Fatalf("redis does not grow: %s", out)
		}
		s.await("rolledback") // nothing can be executed in it before
		return func() {
			_, _ = execIn(s.t, s.p.node, s.p.Container("redis").ID, "sh", "-c", "seq -f x:%.0f 0 399999 | xargs -n 5000 redis-cli unlink >/dev/null")
		}
	}},
	{"a stored page changes at the destination, and the move is compared with CRIU's own dump", append([]string{"--compare-dump", "--whole-pages"}, slowly...), runsOn, func(s *scene) func() {
		s.inRounds()
		s.changeStored()
		s.awaitFunc(func(e move.Event) bool { return e.Kind == "note" && strings.Contains(e.Message, "another content") })
		return nil
	}},
	{"CRIU fails at the destination", slowly, runsOn, func(s *scene) func() {
		s.await("created")
		mend := breakCRIU(s.t, s.to)
		s.await("note")
		return mend
	}},
	{"Ctrl-C at once", slowly, runsOn, interruptAt("accepted")},
	{"Ctrl-C while the destination prepares", slowly, runsOn, interruptAt("preparing")},
	{"Ctrl-C when the destination is parked", slowly, runsOn, interruptAt("created")},
	{"Ctrl-C as the tracking begins", slowly, runsOn, interruptAt("tracking")},
	{"Ctrl-C during the rounds", slowly, runsOn, func(s *scene) func() {
		s.inRounds()
		interrupt(s)
		return nil
	}},
	{"Ctrl-C as the rounds end", nil, either, interruptAt("converged")},
	{"Ctrl-C while the pod is frozen", nil, either, func(s *scene) func() {
		if !s.frozen() {
			interrupt(s)
		}
		return nil
	}},
	{"a second migration of the pod", slowly, either, func(s *scene) func() {
		s.inRounds()
		_, err := move.Do(s.ctx, s.from, s.p.name, s.to.Name)
		if err == nil || !strings.Contains(err.Error(), "already") {
			s.t.Errorf("the pod is being moved, and a second migration says: %v", err)
		}
		return nil
	}},
}

func interruptAt(kind string) func(*scene) func() {
	return func(s *scene) func() {
		s.await(kind)
		interrupt(s)
		return nil
	}
}

// interrupt breaks the migration off, unless it has ended: whether it may have is another question.
func interrupt(s *scene) {
	s.t.Helper()
	if err := s.m.Interrupt(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
}

// breakCRIU has a node's CRIU fail; the returned function mends it.
func breakCRIU(t *testing.T, n *lab.Node) (mend func()) {
	t.Helper()
	const criu = "/usr/sbin/criu"
	if _, err := n.Exec(t.Context(), "sh", "-c", "mv "+criu+" "+criu+".whole && printf '#!/bin/sh\\necho broken by a test >&2\\nexit 1\\n' >"+criu+" && chmod 755 "+criu); err != nil {
		t.Fatal(err)
	}
	mend = func() {
		if _, err := os.Stat(n.Path(criu + ".whole")); err == nil {
			if err := os.Rename(n.Path(criu+".whole"), n.Path(criu)); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(mend)
	return mend
}

// Whatever breaks before the commit: the source runs on and its client loses nothing, the destination is clean, and the
// next migration succeeds.
func TestAFailureLeavesOneRunningPodAndNothingElse(t *testing.T) {
	s := newScene(t)
	for _, f := range failures {
		ok := t.Run(f.name, func(t *testing.T) {
			explain(t, s.from, s.to)
			s.t, s.p.t, s.w.t, s.migration, s.sandbox, s.slack = t, t, t, "", "", maps.Clone(idle)
			s.ctx = within(t, 100*time.Second)
			began := time.Now()
			before := settled(t, s.from, s.to)
			s.w.awaitWrites(100)

			s.start(f.flags...)
			mend := f.happen(s)
			s.addressIfMoved()
			moved := s.endedUnder(mend)
			s.undone()
			moved = moved || s.movedUnheard()
			if moved && f.want == runsOn {
				t.Error("the pod was moved all the same")
			}
			s.w.awaitWrites(writeRate / 4)
			s.runsOnce()
			if !moved {
				noMore(t, before, s.slack, s.from, s.to)
				s.w.follow(s.p, s.to)
			}
			s.w.awaitWrites(writeRate / 4)
			s.w.verifyAndGoOn()
			s.from, s.to = s.to, s.from
			t.Logf("client's longest gap %v, %.1f s in all", s.w.redis.LongestGap(began).Length().Round(time.Millisecond), time.Since(began).Seconds())
		})
		if !ok {
			// What follows would only show the same again.
			s = newSceneAfter(t, s)
		}
	}
}

// addressIfMoved has the client know the destination's address where the pod may go there.
func (s *scene) addressIfMoved() {
	if e, ok := s.m.Event("created"); ok {
		s.w.redis.AlsoAt(e.Destination.PodIP + ":" + redisPort)
		s.w.redis.AlsoAt(s.p.at(redisPort))
	}
}

// endedUnder puts the world in order and waits for the end.
func (s *scene) endedUnder(mend func()) (moved bool) {
	s.t.Helper()
	if mend != nil {
		mend()
	}
	moved = s.ended()
	if moved {
		s.w.redis.AlsoAt(s.p.at(redisPort))
	}
	return moved
}

// runsOnce fails the test unless exactly one node has the pod, and no process of either is frozen.
func (s *scene) runsOnce() {
	s.t.Helper()
	var where []string
	for _, n := range []*lab.Node{s.from, s.to} {
		pods, err := n.Pods(s.ctx)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, p := range pods {
			if p.Name == s.p.name {
				where = append(where, fmt.Sprintf("%s (%s)", n.Name, p.State))
			}
		}
		if census.Frozen(n) {
			s.t.Errorf("something is frozen on node %s", n.Name)
		}
	}
	if len(where) != 1 {
		s.t.Errorf("the pod is on %s", strings.Join(where, " and on "))
	}
}

// newSceneAfter replaces a scene that a failure has spoilt.
func newSceneAfter(t *testing.T, old *scene) *scene {
	t.Helper()
	old.w.stop()
	removePod(t.Context(), t, old.p.name)
	return newScene(t)
}
