package e2e

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// What the node of this test may take of its link, bytes a second, and the memory of each pod.
const (
	sharedRate = 10_000_000
	sharedMiB  = 32
)

// sharer is a pod that leaves the node, and when its memory flowed.
type sharer struct {
	*pod
	flags      []string
	result     *move.Result
	begin, end time.Time // bounds: a busy machine makes what lies between only longer
	bytes      uint64    // at least; frames have heads
}

// move moves the pod; its memory begins to flow after the event begun, and has come at ended.
func (s *sharer) move(ctx context.Context, to *lab.Node, begun, ended string) error {
	m, err := move.Start(ctx, s.node, s.name, to.Name, append(s.flags, "--compression", "none")...)
	if err != nil {
		return err
	}
	rates := ""
	last := move.Event{Progress: &move.Progress{}}
	_, err = m.AwaitFunc(ctx, func(e move.Event) bool {
		if e.Progress != nil && e.Time.Sub(last.Time) > time.Second {
			rates += fmt.Sprintf(" %.1f", float64(e.Progress.WireBytesSent-last.Progress.WireBytesSent)/e.Time.Sub(last.Time).Seconds()/1e6)
			last = e
		}
		return e.Kind == ended
	})
	s.t.Logf("%s: MB/s, each second:%s", s.name, rates)
	if err != nil {
		return err
	}
	if s.result, err = m.Wait(ctx); err != nil {
		return err
	}
	first, _ := m.Event(begun)
	all, _ := m.Event(ended)
	s.begin, s.end = first.Time, all.Time
	return nil
}

// A pod whose memory is fetched after its commit and one that is copied share what the node may
// take of its link.
func TestAPodThatIsFetchedAndOneThatIsCopiedShareTheLink(t *testing.T) {
	a, b := nodes(t)
	configured(t, a, fmt.Sprintf("moves = 2\nbandwidth_limit = \"%dmbit\"\n", sharedRate*8/1_000_000))
	all := []*sharer{
		{pod: rewriting(t, a, "fetched", 4*sharedRate>>20), flags: []string{"--mode", "hybrid"}},
		{pod: rewriting(t, a, "copied", 4)},
	}
	group, ctx := errgroup.WithContext(within(t, 2*moveTimeout))
	group.Go(func() error { return all[0].move(ctx, b, "freezing", "fetched") })
	group.Go(func() error { return all[1].move(ctx, b, "started", "committed") })
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	fetched, copied := all[0], all[1]
	fetched.bytes, copied.bytes = 4096*fetched.result.LeftPages, copied.result.WireBytesSent
	if fetched.bytes < sharedMiB<<20/2 {
		t.Errorf("%d pages left at the source, of %d MiB", fetched.result.LeftPages, sharedMiB)
	}
	for _, s := range all {
		took := s.end.Sub(s.begin)
		t.Logf("%s: %.1f MiB in %v, downtime %.0f ms", s.name, mib(s.bytes), took, s.result.DowntimeMS)
		if least := flowTime(s.bytes); took < least {
			t.Errorf("%s: %.1f MiB came in %v, the node's limit makes it %v at least", s.name, mib(s.bytes), took, least)
		}
		s.moved(b, s.result)
		s.check(workload.Port)
	}
	begin, end := fetched.begin, fetched.end
	if copied.begin.Before(begin) {
		begin = copied.begin
	}
	if copied.end.After(end) {
		end = copied.end
	}
	if sum := fetched.bytes + copied.bytes; end.Sub(begin) < flowTime(sum) {
		t.Errorf("together %.1f MiB came in %v, the node's limit makes it %v at least", mib(sum), end.Sub(begin), flowTime(sum))
	}
}

// flowTime is the least time for so many bytes under the limit, but for the first of them,
// which may go at once.
func flowTime(bytes uint64) time.Duration {
	const ahead = 2 << 20
	return time.Duration(float64(bytes-min(bytes, ahead)) / sharedRate * float64(time.Second))
}

// rewriting runs a pod that has so much memory and rewrites so many MiB of it a second.
func rewriting(t *testing.T, n *lab.Node, name string, rate int) *pod {
	t.Helper()
	p := runPod(t, n, lab.PodSpec{Name: name, Containers: []lab.ContainerSpec{
		container(t, workload.Rewriter, workload.Port, fmt.Sprint(sharedMiB), fmt.Sprint(rate)),
	}})
	for {
		written, err := strconv.Atoi(p.check(workload.Port)["written"])
		if err != nil {
			t.Fatal(err)
		}
		if written >= sharedMiB<<20/4096 { // all of it is there
			return p
		}
		time.Sleep(100 * time.Millisecond)
	}
}
