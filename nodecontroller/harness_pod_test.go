package nodecontroller

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// testPod is a pod of one process, as its stand-in shim holds it.
type testPod struct {
	cluster *testCluster
	node    string
	id      string

	mu        sync.Mutex
	migration string
	state     shimv1.State
	runs      bool // the process exists and is not frozen
	dead      bool // the shim was killed, and its processes with it
	watchers  int
	changed   chan struct{}
	session   *wire.Session
	syncs     uint64            // of its root file system, that were sent
	share     *shimv1.LinkShare // as told last
	server    *ttrpc.Server
	parked    chan struct{} // closed when the start must end
	startErr  error
}

func (p *testPod) set(s shimv1.State, runs bool) {
	p.state, p.runs = s, runs
	p.cluster.note(p.node, runs)
	close(p.changed)
	p.changed = make(chan struct{})
}

// fault is where a test breaks something: before or after a call to a shim.
type fault struct {
	call  string // such as "source.Commit"
	after bool
	do    func(c *testCluster) error
}

func (c *testCluster) interposed(call string, after bool) error {
	c.mu.Lock()
	f := c.fault
	hit := f != nil && f.call == call && f.after == after
	if hit {
		c.fault = nil
	}
	c.mu.Unlock()
	if !hit {
		return nil
	}
	defer close(c.struck) // when what it breaks is broken: who waits for it looks at the nodes next
	return f.do(c)
}

// call carries out one call with the test's fault around it.
func (p *testPod) call(name string, do func() error) error {
	if err := p.cluster.interposed(name, false); err != nil {
		return err
	}
	p.mu.Lock()
	if p.dead {
		p.mu.Unlock()
		return errors.New("killed")
	}
	err := do()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.cluster.interposed(name, true)
}

func (p *testPod) Begin(ctx context.Context, r *shimv1.BeginRequest) (*shimv1.BeginResponse, error) {
	engine, why, err := track.Choose(engineOf(r), p.cluster.features)
	if err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "%v", err)
	}
	return &shimv1.BeginResponse{Engine: engine.String(), EngineReason: why}, p.call("source.Begin", func() error {
		creds, err := wire.LoadCredentials(r.PkiDir)
		if err != nil {
			return err
		}
		p.session, err = wire.Dial(ctx, wire.DialOptions{
			Address: r.PeerAddress, ServerName: r.PeerName, Credentials: creds, Migration: r.Migration, Token: [32]byte(r.Token), Streams: 1,
		})
		if err != nil {
			return err
		}
		p.migration = r.Migration
		state := shimv1.State_STATE_CONVERGED
		if r.FilesLater {
			state = shimv1.State_STATE_ROUNDS
		}
		p.set(state, true)
		space := pagestream.Space{Container: 0, Kind: pagestream.Process, ID: 1}
		return errors.Join(p.session.Stream(0).Pages(space, 0x10000, make([]byte, pagestream.PageSize)), p.sendAhead(ctx, r))
	})
}

func engineOf(r *shimv1.BeginRequest) track.Engine {
	e, err := track.ParseEngine(r.Policy.Tracker)
	if err != nil {
		return track.Engine(255) // refused
	}
	return e
}

func (p *testPod) Watch(ctx context.Context, r *shimv1.WatchRequest, stream shimv1.Migration_WatchServer) error {
	p.mu.Lock()
	if p.migration != r.Migration {
		p.mu.Unlock()
		return errgrpc.ToGRPCf(errdefs.ErrNotFound, "no such migration")
	}
	p.watchers++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.watchers--; p.watchers == 0 && p.beforeCommit() && !p.dead {
			p.set(shimv1.State_STATE_ABORTED, true)
		}
	}()
	for {
		p.mu.Lock()
		state, dead, changed := p.state, p.dead, p.changed
		p.mu.Unlock()
		if dead {
			return errors.New("killed") // ttrpc's Close leaves a stream that is under way
		}
		if err := stream.Send(&shimv1.Progress{State: state, PlacePod: state == shimv1.State_STATE_ROUNDS}); err != nil {
			return err
		}
		if state == shimv1.State_STATE_COMMITTED || state == shimv1.State_STATE_ABORTED || state == shimv1.State_STATE_FILLED {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// beforeCommit is called with mu held.
func (p *testPod) beforeCommit() bool {
	return p.state == shimv1.State_STATE_ROUNDS || p.state == shimv1.State_STATE_CONVERGED || p.state == shimv1.State_STATE_CUT_OVER
}

func (p *testPod) SendFiles(context.Context, *shimv1.SendFilesRequest) (*shimv1.SendFilesResponse, error) {
	return &shimv1.SendFilesResponse{}, p.call("source.SendFiles", func() error {
		if p.state == shimv1.State_STATE_ROUNDS {
			p.set(shimv1.State_STATE_CONVERGED, true)
		}
		return nil
	})
}

func (p *testPod) Share(_ context.Context, r *shimv1.ShareRequest) (*shimv1.ShareResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share = r.Share
	close(p.changed)
	p.changed = make(chan struct{})
	return &shimv1.ShareResponse{}, nil
}

func (p *testPod) CutOver(ctx context.Context, _ *shimv1.CutOverRequest) (*shimv1.CutOverResponse, error) {
	return &shimv1.CutOverResponse{FrozenUnixNano: time.Now().UnixNano()}, p.call("source.CutOver", func() error {
		if p.state != shimv1.State_STATE_CONVERGED {
			return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "state %s", p.state)
		}
		p.set(shimv1.State_STATE_CUT_OVER, false)
		return errors.Join(p.sendFiles(movedDir, true), p.session.Flush(ctx), p.session.Close())
	})
}

func (p *testPod) Commit(context.Context, *shimv1.CommitRequest) (*shimv1.CommitResponse, error) {
	return &shimv1.CommitResponse{}, p.call("source.Commit", func() error {
		switch p.state {
		case shimv1.State_STATE_COMMITTED:
			return nil
		case shimv1.State_STATE_CUT_OVER:
			p.set(shimv1.State_STATE_COMMITTED, false)
			return nil
		}
		return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "state %s", p.state)
	})
}

func (p *testPod) Abort(_ context.Context, r *shimv1.AbortRequest) (*shimv1.AbortResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.migration != r.Migration:
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "no such migration")
	case p.state == shimv1.State_STATE_COMMITTED, p.state == shimv1.State_STATE_FILLED, p.state == shimv1.State_STATE_FILLING:
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "committed")
	case p.beforeCommit():
		p.session.Abort(errors.New(r.Reason))
		p.set(shimv1.State_STATE_ABORTED, true)
	case p.parked != nil:
		p.endStart(errors.New("aborted"))
		p.set(shimv1.State_STATE_ABORTED, false)
	}
	return &shimv1.AbortResponse{}, nil
}

// endStart is called with mu held.
func (p *testPod) endStart(err error) {
	select {
	case <-p.parked:
	default:
		p.startErr = err
		close(p.parked)
	}
}

func (p *testPod) WaitParked(context.Context, *shimv1.WaitParkedRequest) (*shimv1.WaitParkedResponse, error) {
	return &shimv1.WaitParkedResponse{Rootfs: p.cluster.rootfs(p.id)}, p.call("destination.WaitParked", func() error {
		p.set(shimv1.State_STATE_PARKED, false)
		return nil
	})
}

func (p *testPod) Restore(_ context.Context, r *shimv1.RestoreRequest) (*shimv1.RestoreResponse, error) {
	return &shimv1.RestoreResponse{}, p.call("destination.Restore", func() error {
		sealed, err := store.OpenSealed(r.StoreDir)
		if err != nil {
			return err
		}
		defer sealed.Close()
		space := pagestream.Space{Container: 0, Kind: pagestream.Process, ID: 1}
		if sealed.Space(space) == nil {
			return errors.New("the page is not in the store")
		}
		p.set(shimv1.State_STATE_HELD, false)
		return nil
	})
}

// Approach starts nothing ahead, which must harm nobody.
func (p *testPod) Approach(context.Context, *shimv1.ApproachRequest) (*shimv1.ApproachResponse, error) {
	return nil, errors.New("nothing is started ahead")
}

func (p *testPod) Resume(context.Context, *shimv1.ResumeRequest) (*shimv1.ResumeResponse, error) {
	return &shimv1.ResumeResponse{ResumedUnixNano: time.Now().UnixNano()}, p.call("destination.Resume", func() error {
		switch p.state {
		case shimv1.State_STATE_FILLED, shimv1.State_STATE_FILLING:
			return nil
		case shimv1.State_STATE_HELD:
			state := shimv1.State_STATE_FILLED
			if p.cluster.slowFill {
				state = shimv1.State_STATE_FILLING
			}
			p.set(state, true)
			p.endStart(nil)
			return nil
		}
		return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "state %s", p.state)
	})
}

// fill is the end of a slow fill.
func (p *testPod) fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(shimv1.State_STATE_FILLED, true)
}

// kill is a SIGKILL of the shim, upon which containerd kills what ran in the pod.
func (p *testPod) kill() {
	p.server.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.set(p.state, false)
	if p.parked != nil {
		p.endStart(errors.New("shim killed"))
	}
}
