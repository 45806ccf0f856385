package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// nodeServer answers godwitctl, which runs as this daemon's user.
type nodeServer struct{ d *Daemon }

func (d *Daemon) nodeServer() (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return nil, fmt.Errorf("service for godwitctl: %w", err)
	}
	nodev1.RegisterNodeService(server, &nodeServer{d})
	return server, nil
}

func (s *nodeServer) Info(context.Context, *nodev1.InfoRequest) (*nodev1.InfoResponse, error) {
	return &nodev1.InfoResponse{
		Node:      s.d.config.NodeName,
		Version:   Version,
		Advertise: s.d.config.Advertise,
		Peers:     s.d.peers.list(),
	}, nil
}

func (s *nodeServer) Pods(ctx context.Context, _ *nodev1.PodsRequest) (*nodev1.PodsResponse, error) {
	pods, err := s.d.cri.Pods(ctx)
	if err != nil {
		return nil, answer(err)
	}
	memory, err := s.d.cri.Memory(ctx)
	if err != nil {
		s.d.log.Warn("memory of pods is not known", "error", err)
	}
	r := new(nodev1.PodsResponse)
	for _, p := range pods {
		pod := &nodev1.Pod{
			Id:              p.ID,
			Namespace:       p.Namespace,
			Name:            p.Name,
			State:           "NotReady",
			Handler:         p.Handler,
			MemoryBytes:     memory[p.ID],
			CreatedUnixNano: p.Created.UnixNano(),
			Obstacle:        p.Obstacle(),
		}
		if p.Ready {
			pod.State = "Ready"
			if pod.Ip, err = s.d.cri.IP(ctx, p.ID); err != nil {
				return nil, answer(err)
			}
		}
		for _, c := range p.Running() {
			pod.Containers = append(pod.Containers, c.Name)
		}
		s.d.mu.Lock()
		if c := s.d.claimOn(p.ID); c != nil && c.arrival == nil && pod.Obstacle == "" {
			pod.Obstacle = "it takes part in migration " + c.migration
		}
		s.d.mu.Unlock()
		r.Pods = append(r.Pods, pod)
	}
	return r, nil
}

func (s *nodeServer) Migrate(ctx context.Context, req *nodev1.MigrateRequest, stream nodev1.Node_MigrateServer) error {
	m, err := s.d.migrate(ctx, req, nil)
	if err != nil {
		return answer(err)
	}
	return m.feed.each(ctx, stream.Send)
}

func (s *nodeServer) Watch(ctx context.Context, req *nodev1.WatchRequest, stream nodev1.Node_WatchServer) error {
	m, err := s.outgoing(req.Migration)
	if err != nil {
		return err
	}
	return m.feed.each(ctx, stream.Send)
}

func (s *nodeServer) outgoing(id string) (*outgoing, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	m := s.d.outgoing[id]
	if m == nil {
		return nil, answer(fmt.Errorf("node %s is not the source of a migration %q under way: %w", s.d.config.NodeName, id, errdefs.ErrNotFound))
	}
	return m, nil
}

// migrations are all that this node has a part in, and the last ones that ended.
func (d *Daemon) migrations() []*nodev1.Migration {
	d.mu.Lock()
	out, in, ended := values(d.outgoing), values(d.incoming), slices.Clone(d.ended)
	recovering := values(d.recovering)
	d.mu.Unlock()

	all := ended
	for _, r := range recovering {
		all = append(all, recoveringStatus(r, d.config.NodeName))
	}
	for _, m := range out {
		all = append(all, m.status())
	}
	for _, m := range in {
		all = append(all, m.status())
	}
	return all
}

func (s *nodeServer) List(_ context.Context, req *nodev1.ListRequest) (*nodev1.ListResponse, error) {
	r := new(nodev1.ListResponse)
	for _, m := range s.d.migrations() {
		if strings.HasPrefix(m.Id, req.Migration) {
			r.Migrations = append(r.Migrations, m)
		}
	}
	slices.SortStableFunc(r.Migrations, func(a, b *nodev1.Migration) int {
		return int(min(1, max(-1, a.StartedUnixNano-b.StartedUnixNano)))
	})
	return r, nil
}

func values[T any](m map[string]T) []T {
	list := make([]T, 0, len(m))
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// recoveringStatus is a source's part that an earlier daemon left.
func recoveringStatus(r record, node string) *nodev1.Migration {
	s := &nodev1.Migration{
		Id:              r.Migration,
		Role:            "source",
		Pod:             r.Pod,
		From:            node,
		To:              r.Peer,
		Phase:           nodev1.Phase_PHASE_MIGRATING,
		Detail:          "recovering: finding out whether it is committed",
		StartedUnixNano: r.Started.UnixNano(),
	}
	if r.Stage == sourceCommitted {
		s.Phase = nodev1.Phase_PHASE_MIGRATION_COMPLETE
		s.Detail = "recovering: the destination has not acknowledged the commit yet"
	}
	return s
}

// recoveredStatus is a source's part that an earlier daemon left and this one ended.
func recoveredStatus(r record, node string, committed bool, failure error) *nodev1.Migration {
	s := recoveringStatus(r, node)
	s.EndedUnixNano = time.Now().UnixNano()
	s.Phase, s.Detail = nodev1.Phase_PHASE_FAILED, "the source's daemon restarted; the pod runs on "+node
	if committed {
		s.Phase, s.Detail = nodev1.Phase_PHASE_SUCCEEDED, "the pod runs on "+r.Peer
	}
	s.Result = &nodev1.Result{Succeeded: committed && failure == nil, Pod: r.Pod, From: node}
	if committed {
		s.Result.Destination = &nodev1.Destination{Node: r.Peer}
	}
	if failure != nil {
		s.Detail = failure.Error()
	}
	if !s.Result.Succeeded {
		s.Result.Error = s.Detail
	}
	return s
}

func (s *nodeServer) Abort(ctx context.Context, req *nodev1.AbortRequest) (*nodev1.AbortResponse, error) {
	m, err := s.outgoing(req.Migration)
	if err != nil {
		return nil, err
	}
	why := error(ErrCancelled)
	if req.Reason != "" {
		why = fmt.Errorf("%w: %s", ErrCancelled, req.Reason)
	}
	if err := m.abort(why); err != nil {
		return nil, answer(err)
	}
	select {
	case <-m.done:
		return &nodev1.AbortResponse{}, nil
	case <-ctx.Done():
		return nil, answer(ctx.Err())
	}
}

func (s *nodeServer) Resolve(_ context.Context, req *nodev1.ResolveRequest) (*nodev1.ResolveResponse, error) {
	if req.SourceIsGone == req.Abort {
		return nil, answer(fmt.Errorf("say either that the source is gone or that it keeps the pod: %w", errdefs.ErrInvalidArgument))
	}
	s.d.mu.Lock()
	m := s.d.incoming[req.Migration]
	s.d.mu.Unlock()
	if m == nil {
		return nil, answer(fmt.Errorf("node %s is not the destination of a migration %q: %w", s.d.config.NodeName, req.Migration, errdefs.ErrNotFound))
	}
	word := peerv1.Outcome_OUTCOME_ABORTED
	if req.SourceIsGone {
		word = peerv1.Outcome_OUTCOME_COMMITTED
	}
	return &nodev1.ResolveResponse{}, answer(m.resolve(word))
}

func (s *nodeServer) Check(ctx context.Context, req *nodev1.CheckRequest) (*nodev1.CheckResponse, error) {
	findings, err := s.d.check(ctx, req.Peer)
	if errors.Is(err, ErrUnknownPeer) {
		return nil, answer(err)
	}
	return &nodev1.CheckResponse{Findings: findings}, answer(err)
}
