package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/trial"
)

// readyTimeout is how long a pod may take to be ready.
const readyTimeout = "60s"

// pod is a bare pod with the redis of trials, under whatever name and on whatever node PodMigrations have brought it.
type pod struct {
	c          *cluster
	name, node string
	redis      *load.Store
}

// startPod runs a pod on a node and fills its redis with about so much memory, bytes.
func (c *cluster) startPod(ctx context.Context, name, node string, memory int64) (*pod, error) {
	class, grace := v1alpha1.RuntimeClass, int64(0)
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, RuntimeClassName: &class, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "redis", Image: c.image, ImagePullPolicy: corev1.PullNever, Command: trial.RedisCommand}},
		},
	}
	if err := c.user.Create(ctx, object); err != nil {
		return nil, fmt.Errorf("pod %s: %w", name, err)
	}
	p := &pod{c: c, name: name, redis: load.NewRedis("", trial.Keys(memory))}
	if err := p.find(ctx); err != nil {
		return nil, err
	}
	return p, p.redis.Fill(ctx)
}

// find waits until the pod is ready, and learns where it is.
func (p *pod) find(ctx context.Context) error {
	if _, err := p.c.kube.Kubectl(ctx, "", "wait", "--for=condition=Ready", "pod", p.name, "--timeout="+readyTimeout); err != nil {
		return err
	}
	object := new(corev1.Pod)
	if err := p.c.user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: p.name}, object); err != nil {
		return fmt.Errorf("pod %s: %w", p.name, err)
	}
	p.node = object.Spec.NodeName
	p.redis.OnlyAt(redisAt(object.Status.PodIP))
	return nil
}

func redisAt(ip string) string { return net.JoinHostPort(ip, trial.RedisPort) }

// remove deletes the pod and returns when it is gone.
func (p *pod) remove(ctx context.Context) error {
	_, err := p.c.kube.Kubectl(ctx, "", "delete", "pod", p.name, "--timeout="+readyTimeout)
	return err
}

// moved is one move.
type moved struct {
	// gap is the longest time between two acknowledged writes that reaches into the time in which the pod was frozen: the
	// downtime as the client sees it.
	gap time.Duration
	// downtime is what the daemons say.
	downtime time.Duration
	// total is from when it was asked for to its success.
	total time.Duration
	// parts are those of downtime.
	parts move.Downtime
	// began is when it was asked for, frozen when the pod was by what the client saw, to some milliseconds.
	began, frozen time.Time
	// before and after are how many writes were acknowledged in the second before began and in the one after the gap, worst is the
	// longest time between two of the latter.
	before, after int
	worst         time.Duration
}

// measure takes from the client what it saw of the move.
func (m *moved) measure(redis *load.Store) {
	gap := redis.LongestGapWithin(m.frozen, m.frozen.Add(m.downtime))
	m.gap = gap.Length()
	m.before = redis.AckedWithin(m.began.Add(-trial.Settle), m.began)
	end := gap.First.Add(trial.Settle)
	m.after, m.worst = redis.AckedWithin(gap.First, end), redis.LongestGapWithin(gap.First, end).Length()
}

// print tells of a move of what is called so to a node.
func (m moved) print(name, node string) {
	p := m.parts
	agreed := ms(m.downtime) - p.CutOver - p.Seal - p.Restore - p.Commit - p.Resume
	fmt.Printf("  %-12s to %s: downtime %6.1f ms, total %7.1f ms; the daemons' downtime %6.1f ms: "+
		"freeze %.1f, dump %.1f, pages %.1f, files %.1f, in all %.1f; seal %.1f, restore %.1f, commit %.1f, resume %.1f, agreeing and else %.1f; then %d writes in a second, before %d, longest wait %.1f ms\n",
		name, node, ms(m.gap), ms(m.total), ms(m.downtime), p.Freeze, p.Dump, p.Pages, p.Files, p.CutOver, p.Seal, p.Restore, p.Commit, p.Resume, agreed,
		m.after, m.before, ms(m.worst))
}

// errDamaged ends the bench at once.
var errDamaged = errors.New("a move lost or changed data")

// moveAll moves pods to their other nodes at the same time, each under so many writes a second, and verifies all of them.
func moveAll(ctx context.Context, pods []*pod, rate int) ([]moved, error) {
	writing, stop := context.WithCancel(ctx)
	var writers sync.WaitGroup
	defer writers.Wait()
	defer stop()
	for _, p := range pods {
		writers.Go(func() { p.redis.Write(writing, rate) })
	}
	if err := settle(ctx, pods); err != nil {
		return nil, err
	}
	pulse := startPulse()
	defer pulse.stop()
	all := make([]moved, len(pods))
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range pods {
		g.Go(func() error {
			var err error
			all[i], err = p.migrate(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := settle(ctx, pods); err != nil {
		return nil, err
	}
	stop()
	writers.Wait()
	fmt.Printf("  the bench itself stood still for %.1f ms at most\n", ms(pulse.stop()))
	for i, p := range pods {
		all[i].measure(p.redis)
		v, err := p.redis.Verify(ctx)
		if err != nil {
			return nil, fmt.Errorf("pod %s: %w", p.name, err)
		}
		if v.Lost > 0 || v.Wrong > 0 {
			return nil, fmt.Errorf("pod %s: %w: %d writes lost, %d values wrong", p.name, errDamaged, v.Lost, v.Wrong)
		}
		all[i].print(p.name, p.node)
	}
	return all, nil
}

// settle returns when each pod is written to, and has been for a moment.
func settle(ctx context.Context, pods []*pod) error {
	for _, p := range pods {
		if err := p.redis.AwaitAcked(ctx, p.redis.Acked()+1); err != nil {
			return fmt.Errorf("pod %s: %w", p.name, err)
		}
	}
	pause(ctx, trial.Settle)
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// migrate has a PodMigration move the pod to its other node, and returns when nothing is left of it but the object, which it
// deletes.
func (p *pod) migrate(ctx context.Context) (moved, error) {
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: p.name + "-"},
		Spec:       v1alpha1.PodMigrationSpec{PodName: p.name, TargetNode: other(p.node)},
	}
	began := time.Now()
	if err := p.c.user.Create(ctx, m); err != nil {
		return moved{}, fmt.Errorf("PodMigration of pod %s: %w", p.name, err)
	}
	f := following{p: p, moved: moved{began: began}}
	if err := p.c.follow(ctx, m, f.see); err != nil {
		return moved{}, err
	}
	var err error
	if f.parts, err = downtimeParts(ctx, p.c.lab.Node(p.node), f.id); err != nil {
		return moved{}, err
	}
	p.name = f.destination
	if err := p.find(ctx); err != nil {
		return f.moved, err
	}
	if err := p.c.user.Delete(ctx, m); err != nil {
		return f.moved, fmt.Errorf("PodMigration %s: %w", m.Name, err)
	}
	return f.moved, nil
}

// downtimeParts asks a migration's source what its downtime consists of.
func downtimeParts(ctx context.Context, source *lab.Node, id string) (move.Downtime, error) {
	text, err := source.Exec(ctx, "godwitctl", "status", id, "--json")
	if err != nil {
		return move.Downtime{}, err
	}
	var known []struct {
		Result move.Result `json:"result"`
	}
	if err := json.Unmarshal(text, &known); err != nil {
		return move.Downtime{}, fmt.Errorf("status of migration %s: %w", id, err)
	}
	if len(known) != 1 || known[0].Result.Downtime == nil {
		return move.Downtime{}, fmt.Errorf("node %s does not know the downtime of migration %s", source.Name, id)
	}
	return *known[0].Result.Downtime, nil
}
