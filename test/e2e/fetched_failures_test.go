package e2e

import (
	"maps"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// leaving has all memory fetched after the commit, for some seconds.
var leaving = []string{"--mode", "postcopy", "--bandwidth", "8MiB", "--compression", "none"}

// fetchFailures are what happens while pages are missing.
var fetchFailures = []struct {
	name   string
	happen func(s *scene)
}{
	{"nothing", func(*scene) {}},
	{"the network is cut for some seconds", func(s *scene) {
		mend := s.cut()
		// Long enough for both sides to take the connection for broken.
		time.Sleep(pace.Stretch(9 * time.Second))
		mend()
	}},
	{"the source's daemon is killed", func(s *scene) { s.killDaemon(s.from) }},
	{"the destination's daemon is killed", func(s *scene) { s.killDaemon(s.to) }},
	{"the fault server is killed", func(s *scene) { s.killFaultServer() }},
}

// fetching waits until the destination runs the pod and lacks pages of it.
func (s *scene) fetching() {
	s.t.Helper()
	s.awaitFunc(func(e move.Event) bool {
		return e.Progress != nil && e.Progress.Fetching && e.Progress.MissingPages > 0
	})
}

func (s *scene) killFaultServer() {
	s.t.Helper()
	if err := unix.Kill(pidOf(s.t, s.to, "containerd-shim", "godwit-fill"), unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
}

// Whatever breaks while pages are missing and comes back in time: the pod runs at its destination, gets all its
// memory, and its client loses nothing.
func TestAPodOutlivesFailuresWhileItsPagesAreFetched(t *testing.T) {
	s := newScene(t)
	for _, f := range fetchFailures {
		ok := t.Run(f.name, func(t *testing.T) {
			explain(t, s.from, s.to)
			s.t, s.p.t, s.w.t, s.migration, s.sandbox, s.slack = t, t, t, "", "", maps.Clone(idle)
			s.ctx = within(t, 3*time.Minute)
			began := time.Now()
			s.w.awaitWrites(100)
			s.start(leaving...)
			created := s.await("created")
			s.w.redis.AlsoAt(created.Destination.PodIP + ":" + redisPort)
			s.fetching()
			f.happen(s)
			if _, err := s.m.Wait(s.ctx); err != nil {
				t.Log("who asked for it was told:", err) // its daemon may be the one that was killed
			}
			s.undone()
			s.p.moved(s.to, &move.Result{Destination: created.Destination})
			s.w.awaitWrites(writeRate / 4)
			s.runsOnce()
			s.w.verifyAndGoOn()
			s.from, s.to = s.to, s.from
			t.Logf("client's longest gap %v, %.1f s in all", s.w.redis.LongestGap(began).Length().Round(time.Millisecond), time.Since(began).Seconds())
		})
		if !ok {
			s = newSceneAfter(t, s)
		}
	}
}

// A source whose shim dies while pages are missing has lost the pod: both sides say so, nothing hangs and nothing is left.
func TestAPodIsLostWithTheSourceOfItsPages(t *testing.T) {
	s := newScene(t)
	explain(t, s.from, s.to)
	s.slack = maps.Clone(idle)
	s.ctx = within(t, 3*time.Minute)
	s.w.awaitWrites(100)
	shim := pidOf(t, s.from, "containerd-shim", s.p.ID)
	s.start(append([]string{"--reconnect-timeout", "2s"}, leaving...)...)
	s.fetching()
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r, err := s.m.Wait(s.ctx)
	if err == nil || r == nil || !r.PodLost || r.Phase != "Failed" {
		t.Errorf("the source's shim is dead, pages are missing, and the migration says %+v, %v", r, err)
	}
	s.undone()
	for _, n := range []*lab.Node{s.from, s.to} {
		pods, err := n.Pods(s.ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods {
			if p.Name == s.p.name {
				t.Errorf("node %s still has the pod (%s)", n.Name, p.State)
			}
		}
	}
	for census.Frozen(s.from) {
		select {
		case <-s.ctx.Done():
			t.Fatal("the source's processes stay frozen")
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.w.stop()
}
