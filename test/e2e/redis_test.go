package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

const redisPort = "6379"

// redisContainer is a redis that keeps everything in memory.
func redisContainer(t *testing.T) lab.ContainerSpec {
	t.Helper()
	return lab.ContainerSpec{
		Name: "redis", Image: image(t, "redis", "redis-server"),
		Command: []string{"redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no",
			"--bind", "0.0.0.0", "--enable-debug-command", "yes"},
	}
}

// writer writes to the redis of a pod until it is stopped, wherever the pod is.
type writer struct {
	t     *testing.T
	redis *load.Store
	begun time.Time
	stop  func()     // waits until it has stopped
	moved *move.Move // follow's last
}

// writeRate is how many keys are written a second: of a slow machine a client that writes as fast as it can would leave nothing
// to the move.
var writeRate = pace.Fewer(2000)

// slowKeys is the least that a redis holds on a slow machine, where more would only take longer.
const slowKeys = 20_000

// keys is how many keys a redis has here that elsewhere has n.
func keys(n int) uint32 { return uint32(max(pace.Fewer(n), min(n, slowKeys))) }

// startWriter fills the pod's redis with keys of 1 KiB and begins to write.
func startWriter(t *testing.T, p *pod, keys uint32) *writer {
	t.Helper()
	w := &writer{t: t, redis: load.NewRedis(p.at(redisPort), keys), begun: time.Now()}
	if err := w.redis.Fill(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	w.write()
	t.Cleanup(func() { w.stop() })
	return w
}

// write begins to write, until stop.
func (w *writer) write() { w.writeAt(writeRate) }

// writeAt writes rate keys a second.
func (w *writer) writeAt(rate int) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.redis.Write(ctx, rate) })
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
}

// awaitWrites waits until more writes are acknowledged: the server answers, and the client has found it.
func (w *writer) awaitWrites(more int) {
	w.t.Helper()
	ctx, from := within(w.t, 3*time.Minute), w.redis.Acked()
	for w.redis.Acked() < from+uint64(more) {
		select {
		case <-ctx.Done():
			w.t.Fatalf("the client's writes are not acknowledged any more: %d of %d in time", w.redis.Acked()-from, more)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// verify stops writing and compares every key.
func (w *writer) verify() {
	w.t.Helper()
	w.stop()
	v, err := w.redis.Verify(within(w.t, 3*time.Minute))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Logf("%d writes acknowledged, %d lost, %d wrong; longest gap %v", v.Acked, v.Lost, v.Wrong,
		w.redis.LongestGap(w.begun).Length().Round(time.Millisecond))
	if v.Lost+v.Wrong > 0 || v.Acked == 0 {
		w.t.Errorf("of %d acknowledged writes %d are lost, and %d values were never written", v.Acked, v.Lost, v.Wrong)
	}
}

// follow moves a pod that is written to, and has the client know the new address as soon as there is one.
func (w *writer) follow(p *pod, to *lab.Node, flags ...string) *move.Result {
	w.t.Helper()
	ctx := within(w.t, moveTimeout)
	m, err := move.Start(ctx, p.node, p.name, to.Name, flags...)
	if err != nil {
		w.t.Fatal(err)
	}
	created, err := m.Await(ctx, "created")
	if err != nil {
		w.t.Fatal(err)
	}
	w.redis.AlsoAt(created.Destination.PodIP + ":" + redisPort)
	w.moved = m
	r, err := m.Wait(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	p.moved(to, r)
	return r
}

func TestRedisLosesNothingWhileItIsWrittenTo(t *testing.T) {
	for _, c := range []struct {
		mode  string
		flags []string
	}{
		{"live", nil},
		{"cold", []string{"--mode", "cold"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			a, b := nodes(t)
			p := runPod(t, a, lab.PodSpec{Name: "redis-" + c.mode, Containers: []lab.ContainerSpec{redisContainer(t)}})
			w := startWriter(t, p, keys(100_000))
			w.awaitWrites(writeRate / 2)
			r := w.follow(p, b, c.flags...)
			if r.Mode != c.mode {
				t.Errorf("mode %s", r.Mode)
			}
			w.awaitWrites(writeRate)
			w.verify()
		})
	}
}

// freezeLeast is less than any freeze of a pod takes.
const freezeLeast = 10 * time.Millisecond

// Both containers are frozen at one moment and go on at one moment.
func TestContainersOfAPodMoveAsOne(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "pair", Containers: []lab.ContainerSpec{
		redisContainer(t), container(t, workload.Ticker, workload.Port, "/lines"),
	}})
	w := startWriter(t, p, keys(50_000))
	w.awaitWrites(writeRate / 2)
	began := time.Now()
	w.follow(p, b)
	w.awaitWrites(writeRate / 2)
	stalls, err := workload.Stalls(within(t, 10*time.Second), p.at(workload.Port), freezeLeast, began)
	if err != nil {
		t.Fatal(err)
	}
	p.check(workload.Port)
	w.verify()
	// The ticker's longest stall during the cutover is the freeze, and the client has no answer in most of it.
	freezing, _ := w.moved.Event("freezing")
	resumed, _ := w.moved.Event("resumed")
	var longest workload.Stall
	for _, s := range stalls {
		if s.Began.Before(resumed.Time) && s.Began.Add(s.Length).After(freezing.Time) && s.Length > longest.Length {
			longest = s
		}
	}
	if longest.Length == 0 {
		t.Fatalf("the second container was never frozen: stalls %v, cutover from %v to %v", stalls, freezing.Time, resumed.Time)
	}
	gap := w.redis.LongestGapWithin(longest.Began, longest.Began.Add(longest.Length))
	t.Logf("ticker stood still for %v from %v on, redis for %v from %v on", longest.Length, longest.Began, gap.Length(), gap.Last)
	if gap.Length() < longest.Length/2 {
		t.Error("the containers were not frozen together")
	}
}

// verifyAndGoOn compares every key and goes on writing.
func (w *writer) verifyAndGoOn() {
	w.t.Helper()
	w.verify()
	w.write()
}
