// Package trial is one measured move of a pod under load: redis, into which a
// client writes without pause, and a ticker that notices when it does not run
// and appends to a file. The demo shows trials, the bench judges them.
package trial

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/workload"
)

const (
	// bytesPerKey is what redis needs for a key with a value of load.ValueSize.
	bytesPerKey = 1400
	// journal is the file that the ticker appends to, in its root file system.
	journal = "journal"
	// ticker is the name of the second container.
	ticker = "ticker"
	// PodName is the name of the trial's pod unless its Spec says another.
	PodName = "trial"
)

// RedisPort is where the redis of trials listens.
const RedisPort = "6379"

// RedisCommand is the redis of trials: on every address, writing to no file.
var RedisCommand = []string{
	"redis-server", "--bind", "0.0.0.0", "--port", RedisPort, "--protected-mode", "no", "--save", "", "--appendonly", "no",
}

// Keys is how many keys fill about so much memory of redis, bytes.
func Keys(memory int64) uint32 { return uint32(memory / bytesPerKey) }

// Pod is the pod that trials move, and what is known of its content.
type Pod struct {
	lab   *lab.Lab
	name  string
	node  *lab.Node
	pod   *lab.Pod
	redis *load.Store
}

// RedisImage gives the lab's nodes the image with redis.
func RedisImage(ctx context.Context, l *lab.Lab) (string, error) {
	return l.AddImage(ctx, lab.ImageSpec{Name: "redis", Debian: []string{"redis-server"}})
}

// Spec says what pod to run.
type Spec struct {
	// Name is the pod's; empty means PodName.
	Name string
	// Node is where it runs first.
	Node string
	// Memory is about how much redis is filled with, bytes.
	Memory int64
	// Ticker adds a second container: a ticker of 1 ms that notes its stalls and
	// appends a line to a file every 10 ms.
	Ticker bool
}

// Start runs the pod and fills redis.
func Start(ctx context.Context, l *lab.Lab, spec Spec) (*Pod, error) {
	redis, err := RedisImage(ctx, l)
	if err != nil {
		return nil, err
	}
	p := &Pod{lab: l, node: l.Node(spec.Node), name: cmp.Or(spec.Name, PodName)}
	containers := []lab.ContainerSpec{{Name: "redis", Image: redis, Args: RedisCommand}}
	if spec.Ticker {
		programs, err := workload.Image(ctx, l)
		if err != nil {
			return nil, err
		}
		containers = append(containers, lab.ContainerSpec{
			Name: ticker, Image: programs, Args: []string{"/" + workload.Ticker, workload.Port, "/" + journal},
		})
	}
	p.pod, err = p.node.RunPod(ctx, lab.PodSpec{Name: p.name, Containers: containers})
	if err != nil {
		return nil, err
	}
	p.redis = load.NewRedis(p.at(RedisPort), Keys(spec.Memory))
	if err := p.redis.Fill(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Pod) at(port string) string { return net.JoinHostPort(p.pod.IP, port) }

// Node is where the pod is.
func (p *Pod) Node() *lab.Node { return p.node }

// ID is the pod's sandbox.
func (p *Pod) ID() string { return p.pod.ID }

// Remove removes the pod.
func (p *Pod) Remove(ctx context.Context) error { return p.node.RemovePod(ctx, p.pod.ID) }

// Config says how a pod is moved.
type Config struct {
	// To is the node that it goes to.
	To string
	// Cold moves by stop-and-copy.
	Cold bool
	// Rate is how many writes a second go on meanwhile; 0 means none.
	Rate int
	// Flags go to godwitctl besides.
	Flags []string
	// OnEvent, if not nil, hears every event as it comes.
	OnEvent func(move.Event)
	// SourceDies says that the source node is killed after the commit, and with
	// it the godwitctl that would tell the end.
	SourceDies bool
}

// Result is what a trial found.
type Result struct {
	*move.Result
	load.Verdict
	// Began is when the migration was asked for.
	Began time.Time
	// Gap is the longest time between two acknowledged writes that reaches into
	// the time from the freeze to the commit: the downtime.
	Gap load.Gap
	// Later is the longest such time after that, while memory is filled in.
	Later load.Gap
	// Before and After are how many writes were acknowledged in the second (Settle) before
	// the migration was asked for, and in the one after the gap. Worst is the longest time
	// between two in the latter.
	Before, After int
	Worst         load.Gap
	// Stood is the sum of such times of noticeable length and more before the
	// freeze.
	Stood time.Duration
	// Stalls are the times that the ticker did not run for, before the freeze.
	Stalls []workload.Stall
	// Lines is how many lines the ticker's file has, all in their order.
	Lines uint64
	// Events but for progress.
	Events []move.Event
}

// Noticeable is a time between two acknowledged writes that is more than chance.
const Noticeable = 50 * time.Millisecond

// Settle is how long the writer goes on before and after a move.
const Settle = time.Second

// Move moves the pod while it is written to, and verifies all of it afterwards.
func (p *Pod) Move(ctx context.Context, c Config) (*Result, error) {
	r := &Result{}
	writing, stop := context.WithCancel(ctx)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer stop()
	p.redis.OnlyAt(p.at(RedisPort))
	if c.Rate > 0 {
		before := p.redis.Acked()
		writer.Go(func() { p.redis.Write(writing, c.Rate) })
		if err := p.redis.AwaitAcked(ctx, before+1); err != nil {
			return r, err
		}
		pause(ctx, Settle)
	}
	r.Began = time.Now()
	if err := p.migrate(ctx, c, r); err != nil {
		return r, err
	}
	if c.Rate > 0 {
		if err := p.redis.AwaitAcked(ctx, p.redis.Acked()+1); err != nil {
			return r, err
		}
		pause(ctx, Settle)
	}
	stop()
	writer.Wait()
	frozen, committed := r.when("freezing"), r.when("committed")
	r.Gap = p.redis.LongestGapWithin(frozen, committed)
	r.Stood = p.redis.StoodWithin(r.Began, frozen, Noticeable)
	r.Later = p.redis.LongestGap(r.Gap.First)
	r.Before = p.redis.AckedWithin(r.Began.Add(-Settle), r.Began)
	after := r.Gap.First.Add(Settle)
	r.After, r.Worst = p.redis.AckedWithin(r.Gap.First, after), p.redis.LongestGapWithin(r.Gap.First, after)
	return r, p.verify(ctx, r)
}

// when is the time of the first event of a kind.
func (r *Result) when(kind string) time.Time {
	for _, e := range r.Events {
		if e.Kind == kind {
			return e.Time
		}
	}
	return time.Time{}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// migrate runs the migration and follows the pod.
func (p *Pod) migrate(ctx context.Context, c Config, r *Result) error {
	flags := c.Flags
	if c.Cold {
		flags = append([]string{"--mode", "cold"}, flags...)
	}
	m, err := move.Start(ctx, p.node, p.name, c.To, flags...)
	if err != nil {
		return err
	}
	known, committed := false, false
	_, err = m.AwaitFunc(ctx, func(e move.Event) bool {
		if e.Destination != nil && e.Destination.PodIP != "" && !known {
			known = true
			p.redis.AlsoAt(net.JoinHostPort(e.Destination.PodIP, RedisPort))
		}
		if c.OnEvent != nil {
			c.OnEvent(e)
		}
		committed = committed || e.Kind == "committed"
		if e.Kind != "progress" {
			r.Events = append(r.Events, e)
		}
		return e.Kind == "ended"
	})
	result, werr := m.Wait(ctx)
	if r.Result = result; result == nil {
		r.Result = &move.Result{}
	}
	if c.SourceDies && committed {
		err, werr = nil, nil
	}
	if err := errors.Join(werr, err); err != nil {
		return err
	}
	p.node = p.lab.Node(c.To)
	p.pod, err = p.node.FindPod(ctx, p.name)
	return err
}

// verify reads back all that the pod must have.
func (p *Pod) verify(ctx context.Context, r *Result) error {
	var err error
	if r.Verdict, err = p.redis.Verify(ctx); err != nil {
		return err
	}
	container := p.pod.Container(ticker)
	if container == nil {
		return nil
	}
	frozen := r.Gap.Last
	stalls, err := workload.Stalls(ctx, p.at(workload.Port), 10*time.Millisecond, r.Began)
	if err != nil {
		return err
	}
	for _, s := range stalls {
		if frozen.IsZero() || s.Began.Add(s.Length).Before(frozen) {
			r.Stalls = append(r.Stalls, s)
		}
	}
	return p.checkJournal(ctx, container.ID, r)
}

// checkJournal checks the sequence of the ticker's file.
func (p *Pod) checkJournal(ctx context.Context, container string, r *Result) error {
	path := filepath.Join("/run/containerd/io.containerd.runtime.v2.task/k8s.io", container, "rootfs", journal)
	text, err := p.node.Exec(ctx, "cat", path)
	if err != nil {
		return fmt.Errorf("read the ticker's file: %w", err)
	}
	// The last line may be just being written.
	if end := bytes.LastIndexByte(text, '\n'); end >= 0 {
		text = text[:end+1]
	}
	r.Lines, err = workload.CheckAppended(bytes.NewReader(text))
	return err
}

// LongestStall is the longest of the ticker's stalls during the rounds.
func (r *Result) LongestStall() time.Duration {
	var longest time.Duration
	for _, s := range r.Stalls {
		longest = max(longest, s.Length)
	}
	return longest
}

// Damaged says what a move must never do: lose an acknowledged write, or make
// up a value.
func (r *Result) Damaged() bool { return r.Lost > 0 || r.Wrong > 0 }
