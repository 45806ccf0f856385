package shim

import (
	"context"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/proto"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// defaultWatchInterval is how often a watcher hears at least.
const defaultWatchInterval = 250 * time.Millisecond

// service answers the Migration service's calls.
type service struct{ m *migrations }

var _ shimv1.MigrationService = (*service)(nil)

func (s *service) Begin(ctx context.Context, r *shimv1.BeginRequest) (*shimv1.BeginResponse, error) {
	source, err := s.m.begin(r)
	if err != nil {
		return nil, err
	}
	if err := source.begin(ctx); err != nil {
		return nil, refuse(r.GetMigration(), err)
	}
	return &shimv1.BeginResponse{
		Engine: source.engine.String(), EngineReason: source.engineReason, Descriptors: source.descriptors(),
		Tmpfs: source.ownMounts(), TmpfsContent: source.contentAhead(ctx),
	}, nil
}

func (s *service) Watch(ctx context.Context, r *shimv1.WatchRequest, stream shimv1.Migration_WatchServer) error {
	interval := defaultWatchInterval
	if ms := r.GetIntervalMs(); ms > 0 {
		interval = time.Duration(ms) * time.Millisecond
	}
	if source, err := s.m.getSource(r.GetMigration()); err == nil {
		defer source.watch()()
		return watch(ctx, stream, interval, source.changed, source.report)
	}
	d, err := s.m.getDestination(r.GetMigration())
	if err != nil {
		return err
	}
	return watch(ctx, stream, interval, d.changed, func() (*shimv1.Progress, bool) {
		return d.progress(), d.over()
	})
}

// watch sends reports until the last one.
func watch(ctx context.Context, stream shimv1.Migration_WatchServer, interval time.Duration,
	changed *broadcast, report func() (*shimv1.Progress, bool),
) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		next := changed.wait()
		p, last := report()
		if err := stream.Send(p); err != nil || last {
			return err
		}
		select {
		case <-next:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *service) SendFiles(_ context.Context, r *shimv1.SendFilesRequest) (*shimv1.SendFilesResponse, error) {
	source, err := s.m.getSource(r.GetMigration())
	if err != nil {
		return nil, err
	}
	source.sendFiles()
	return &shimv1.SendFilesResponse{}, nil
}

func (s *service) CutOver(ctx context.Context, r *shimv1.CutOverRequest) (*shimv1.CutOverResponse, error) {
	source, err := s.m.getSource(r.GetMigration())
	if err != nil {
		return nil, err
	}
	resp, err := source.cutOver(ctx, r)
	if err != nil {
		return nil, refuse(source.id, err)
	}
	return resp, nil
}

func (s *service) Commit(ctx context.Context, r *shimv1.CommitRequest) (*shimv1.CommitResponse, error) {
	source, err := s.m.getSource(r.GetMigration())
	if err != nil {
		return nil, err
	}
	if err := source.awaitReached(ctx); err != nil {
		return nil, refuse(source.id, err)
	}
	if err := source.commit(); err != nil {
		return nil, refuse(source.id, err)
	}
	return &shimv1.CommitResponse{}, nil
}

func (s *service) Abort(_ context.Context, r *shimv1.AbortRequest) (*shimv1.AbortResponse, error) {
	if source, err := s.m.getSource(r.GetMigration()); err == nil {
		if err := source.abort(r.GetReason()); err != nil {
			return nil, refuse(source.id, err)
		}
		return &shimv1.AbortResponse{}, nil
	}
	d, err := s.m.expectDestination(r.GetMigration())
	if err != nil {
		return nil, err
	}
	if err := d.abort(r.GetReason()); err != nil {
		return nil, refuse(d.id, err)
	}
	return &shimv1.AbortResponse{}, nil
}

func (s *service) WaitParked(ctx context.Context, r *shimv1.WaitParkedRequest) (*shimv1.WaitParkedResponse, error) {
	d, err := s.m.expectDestination(r.GetMigration())
	if err != nil {
		return nil, err
	}
	rootfs, err := d.waitParked(ctx, r.GetContainer())
	if err != nil {
		return nil, refuse(d.id, err)
	}
	return &shimv1.WaitParkedResponse{Rootfs: rootfs}, nil
}

func (s *service) Restore(ctx context.Context, r *shimv1.RestoreRequest) (*shimv1.RestoreResponse, error) {
	d, err := s.m.getDestination(r.GetMigration())
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := d.restoreContainer(ctx, r); err != nil {
		return nil, refuse(d.id, err)
	}
	return &shimv1.RestoreResponse{RestoreUs: uint64(time.Since(began).Microseconds())}, nil
}

func (s *service) Approach(ctx context.Context, r *shimv1.ApproachRequest) (*shimv1.ApproachResponse, error) {
	d, err := s.m.getDestination(r.GetRestore().GetMigration())
	if err != nil {
		return nil, err
	}
	resp, err := d.approach(ctx, r)
	if err != nil {
		return nil, refuse(d.id, err)
	}
	return resp, nil
}

func (s *service) Resume(ctx context.Context, r *shimv1.ResumeRequest) (*shimv1.ResumeResponse, error) {
	d, err := s.m.getDestination(r.GetMigration())
	if err != nil {
		return nil, err
	}
	at, err := d.resume(ctx)
	if err != nil {
		return nil, refuse(d.id, err)
	}
	resp := &shimv1.ResumeResponse{ResumedUnixNano: at.UnixNano()}
	if trouble := d.trouble(); trouble != nil {
		resp.Trouble = trouble.Error()
	}
	return resp, nil
}

func (s *service) Share(_ context.Context, r *shimv1.ShareRequest) (*shimv1.ShareResponse, error) {
	source, err := s.m.getSource(r.GetMigration())
	if err != nil {
		return nil, err
	}
	source.setShare(r.GetShare())
	return &shimv1.ShareResponse{}, nil
}

// refuse names the migration in an error for the daemon.
func refuse(id string, err error) error {
	return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "migration %s: %v", id, err)
}

func cloneProgress(p *shimv1.Progress) *shimv1.Progress {
	return proto.Clone(p).(*shimv1.Progress)
}
