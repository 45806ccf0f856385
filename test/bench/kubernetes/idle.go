package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
)

const (
	// finished is how many PodMigrations that are over are in the cluster.
	finished = 1000
	// makers make them at the same time.
	makers = 8
	// idleAfter is how long nothing has happened before the daemons are looked at, and idleFor how long they are.
	idleAfter, idleFor = 25 * time.Second, time.Minute
	// lookInterval is how often their memory is looked at meanwhile.
	lookInterval = time.Second
)

// usage is what a daemon took for a while. Memory is that of the moment when most was resident, bytes.
type usage struct {
	resident  uint64  // VmRSS
	share     uint64  // Pss: pages of the program that other processes have too count in part
	anonymous uint64  // of resident, what is not pages of files
	processor float64 // share of one
}

// worst takes of each what is most.
func (u usage) worst(other usage) usage {
	if other.resident > u.resident {
		u.resident, u.share, u.anonymous = other.resident, other.share, other.anonymous
	}
	u.processor = max(u.processor, other.processor)
	return u
}

// idle looks at the daemons of both nodes while nothing moves: with no PodMigration in the cluster, and with many that are over.
// They have moved a pod there and back before the first, and before the second one has seen the many being made, and the other has
// been started anew and has read them.
func (b *bench) idle(ctx context.Context) error {
	p, err := b.cluster.startPod(ctx, "small", "a", tenMemory)
	if err != nil {
		return err
	}
	for range 2 {
		if _, err := moveAll(ctx, []*pod{p}, tenRate); err != nil {
			return err
		}
	}
	if err := p.remove(ctx); err != nil {
		return err
	}
	if b.before, err = b.cluster.watchIdle(ctx, "no PodMigration"); err != nil {
		return err
	}
	began := time.Now()
	if err := b.cluster.makeFinished(ctx); err != nil {
		return err
	}
	fmt.Printf("  %d PodMigrations that are over made in %.1f s\n", finished, time.Since(began).Seconds())
	if n := b.cluster.lab.Node("a"); !n.KillDaemon() {
		return fmt.Errorf("node %s has no godwit-node", n.Name)
	}
	if b.after, err = b.cluster.watchIdle(ctx, "many that are over"); err != nil {
		return err
	}
	if err := b.cluster.user.DeleteAllOf(ctx, new(v1alpha1.PodMigration), client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("PodMigrations: %w", err)
	}
	return nil
}

// watchIdle watches both nodes' daemons for a while, and returns what the worse of them took.
func (c *cluster) watchIdle(ctx context.Context, when string) (usage, error) {
	pause(ctx, idleAfter)
	nodes := c.lab.Nodes()
	all := make([]usage, len(nodes))
	g, gctx := errgroup.WithContext(ctx)
	for i, n := range nodes {
		g.Go(func() error {
			var err error
			if all[i], err = watchDaemon(gctx, n); err != nil {
				return fmt.Errorf("godwit-node of node %s: %w", n.Name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return usage{}, err
	}
	var worst usage
	for i, u := range all {
		fmt.Printf("  %s, godwit-node of %s: %.1f MiB resident (%.1f MiB Pss, %.1f MiB anonymous), %.2f %% of a processor\n",
			when, nodes[i].Name, mib(u.resident), mib(u.share), mib(u.anonymous), u.processor*100)
		worst = worst.worst(u)
	}
	return worst, nil
}

func watchDaemon(ctx context.Context, n *lab.Node) (usage, error) {
	pid := n.ServicePID("godwit-node")
	if pid == 0 {
		return usage{}, errors.New("it does not run")
	}
	began := time.Now()
	before, err := processorTime(pid)
	if err != nil {
		return usage{}, err
	}
	var u usage
	for time.Since(began) < idleFor && ctx.Err() == nil {
		now, err := memoryOf(pid)
		if err != nil {
			return u, err
		}
		u = u.worst(now)
		pause(ctx, lookInterval)
	}
	after, err := processorTime(pid)
	u.processor = (after - before).Seconds() / time.Since(began).Seconds()
	return u, errors.Join(err, ctx.Err())
}

// processorTime is what all threads of a process have run for, to the nanosecond: the clock that clock_getcpuclockid(3) gives.
func processorTime(pid int) (time.Duration, error) {
	const scheduled = 2 // CPUCLOCK_SCHED of linux/posix-timers_types.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// memoryOf reads what a process has, smaps_rollup of proc_pid_smaps(5). Unlike VmRSS of its status, which is summed up when a
// processor has had 64 pages more, it is counted anew.
func memoryOf(pid int) (usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return usage{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	var u usage
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kb, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return u, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		switch f[0] {
		case "Rss:":
			u.resident = kb << 10
		case "Pss:":
			u.share = kb << 10
		case "Anonymous:":
			u.anonymous = kb << 10
		}
	}
	return u, nil
}

// makeFinished makes PodMigrations that are over.
func (c *cluster) makeFinished(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(makers)
	for i := range finished {
		g.Go(func() error {
			m := finishedMigration(i)
			status := m.Status
			if err := c.user.Create(ctx, m); err != nil {
				return fmt.Errorf("PodMigration %s: %w", m.Name, err)
			}
			m.Status = status
			if err := c.user.Status().Update(ctx, m); err != nil {
				return fmt.Errorf("status of PodMigration %s: %w", m.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// finishedMigration is one as large as those that moved a pod of two containers.
func finishedMigration(i int) *v1alpha1.PodMigration {
	now := metav1.Now()
	name := fmt.Sprintf("finished-%d", i)
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec:       v1alpha1.PodMigrationSpec{PodName: name, TargetNode: "b"},
	}
	total, downtime := metav1.Duration{Duration: 1423 * time.Millisecond}, metav1.Duration{Duration: 153 * time.Millisecond}
	m.Status = v1alpha1.PodMigrationStatus{
		Phase: v1alpha1.PhaseSucceeded, Migration: "pm-" + string(uuid.NewUUID()), SourceNode: "a", DestinationNode: "b",
		SourcePod:      &v1alpha1.PodReference{Name: name, UID: uuid.NewUUID(), IP: "10.1.0.17"},
		DestinationPod: &v1alpha1.PodReference{Name: name + "-x7k2p", UID: uuid.NewUUID(), IP: "10.2.0.23"},
		Engine:         "WriteProtect", EngineReason: "the kernel has PAGEMAP_SCAN and userfaultfd's asynchronous write protection",
		StopReason: "what is dirty is sent within the downtime that was asked for",
		Message:    "nothing of the pod is left on a", MemoryBytes: 512 << 20, BytesSent: 412 << 20, Rate: 600 << 20, DirtyRate: 12 << 20,
		StartTime: &now, CommitTime: &now, CompletionTime: &now, Total: &total, Downtime: &downtime,
	}
	for _, kind := range []string{
		v1alpha1.ConditionMovable, v1alpha1.ConditionPrepared, v1alpha1.ConditionParked, v1alpha1.ConditionConverged,
		v1alpha1.ConditionCommitted, v1alpha1.ConditionCleaned,
	} {
		m.Status.Conditions = append(m.Status.Conditions, metav1.Condition{
			Type: kind, Status: metav1.ConditionTrue, Reason: "Reached", Message: "this is as long as what is said there", LastTransitionTime: now, ObservedGeneration: 1,
		})
	}
	for _, c := range []string{"server", "sidecar"} {
		m.Status.Containers = append(m.Status.Containers, v1alpha1.ContainerStatus{
			Name: c, State: v1alpha1.ContainerMoved, Image: "registry.example/team/" + c + "@sha256:" + strings.Repeat("0123456789abcdef", 4),
		})
	}
	for number := range int32(5) {
		m.Status.Rounds = append(m.Status.Rounds, v1alpha1.Round{
			Number: number, DirtyPages: 131072 >> number, Bytes: 512 << 20 >> number, WireBytes: 400 << 20 >> number,
			Duration: metav1.Duration{Duration: time.Second >> number}, Stood: metav1.Duration{Duration: 100 * time.Microsecond},
		})
	}
	return m
}
