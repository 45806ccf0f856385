package main

import (
	"context"
	"net"
	"strconv"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// rewrite runs a pod on node a that rewrites so many MiB, so many a second, and returns when
// all of them have been written.
func rewrite(ctx context.Context, l *lab.Lab, mib, rate int, more ...string) (rewriter, error) {
	image, err := workload.Image(ctx, l)
	if err != nil {
		return rewriter{}, err
	}
	p, err := l.Node("a").RunPod(ctx, lab.PodSpec{Name: workload.Rewriter, Containers: []lab.ContainerSpec{{
		Name: workload.Rewriter, Image: image,
		Command: append([]string{"/" + workload.Rewriter, workload.Port, strconv.Itoa(mib), strconv.Itoa(rate)}, more...),
	}}})
	if err != nil {
		return rewriter{}, err
	}
	r := rewriter{net.JoinHostPort(p.IP, workload.Port)}
	return r, r.filled(ctx, mib)
}

// rewriter is the pod's program, at its address.
type rewriter struct{ address string }

// written is how many pages it has written so far.
func (r rewriter) written(ctx context.Context) (uint64, error) {
	figures, err := workload.Check(ctx, r.address)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(figures["written"], 10, 64)
}

// filled returns when so many MiB have been written.
func (r rewriter) filled(ctx context.Context, mib int) error {
	for {
		written, err := r.written(ctx)
		if err != nil || written >= uint64(mib)<<20/4096 {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (r rewriter) inASecond(ctx context.Context) (uint64, error) {
	before, err := r.written(ctx)
	if err != nil {
		return 0, err
	}
	time.Sleep(time.Second)
	after, err := r.written(ctx)
	return after - before, err
}
