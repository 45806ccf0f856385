package nodecontroller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// defaultTimeout is what a migration has until its commit.
const defaultTimeout = 30 * time.Minute

// migrate begins a migration: it is under way when this returns. Without an
// orchestrator it is the caller's to be one, if the request says that kubelet makes
// the pod.
func (d *Daemon) migrate(ctx context.Context, req *nodev1.MigrateRequest, o Orchestrator) (*outgoing, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	if req.To == d.config.NodeName {
		return nil, fmt.Errorf("the pod is on node %s already: %w", req.To, errdefs.ErrInvalidArgument)
	}
	if err := d.checkTracker(ctx, req); err != nil {
		return nil, err
	}
	d.mu.Lock()
	known := req.Migration != "" && d.knows(req.Migration)
	d.mu.Unlock()
	if known { // said first: it may be why the pod is gone
		return nil, errKnown(req.Migration)
	}
	address, err := d.peers.lookup(req.To)
	if err != nil {
		return nil, err
	}
	pod, err := d.cri.Find(ctx, req.Pod)
	if err != nil {
		return nil, err
	}
	warnings, err := d.clearOfProcesses(ctx, pod, req)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return nil, fmt.Errorf("%w: %w", errStopping, errdefs.ErrUnavailable)
	}
	claim := d.claimOn(pod.ID)
	if err := claim.refusal(pod); err != nil {
		return nil, err
	}
	if req.Migration != "" && d.knows(req.Migration) {
		return nil, errKnown(req.Migration)
	}
	m := d.newOutgoing(req, pod, address, o)
	if claim != nil {
		m.arrival = claim.arrival
	}
	d.outgoing[m.id] = m
	m.tell("accepted", fmt.Sprintf("moving pod %s to %s", pod.FullName(), req.To))
	for _, w := range warnings {
		m.tell("warning", w.Text)
	}
	d.work.Go(func() { m.run(d.life) })
	return m, nil
}

func errKnown(id string) error {
	return fmt.Errorf("migration %s is known already: %w", id, errdefs.ErrAlreadyExists)
}

// knows says whether a migration of that name is, or was not long ago. It is called
// with mu held.
func (d *Daemon) knows(id string) bool {
	_, recovering := d.recovering[id]
	return d.outgoing[id] != nil || d.incoming[id] != nil || recovering || d.journal.has(id) ||
		slices.ContainsFunc(d.ended, func(m *nodev1.Migration) bool { return m.Id == id })
}

func (d *Daemon) newOutgoing(req *nodev1.MigrateRequest, pod cri.Pod, address string, o Orchestrator) *outgoing {
	id := req.Migration
	if id == "" {
		id = newID()
	}
	callers := req.Kubelet && o == nil
	if callers {
		o = callersPod{d, pod.ID}
	}
	m := &outgoing{
		d:         d,
		id:        id,
		request:   req,
		pod:       pod,
		address:   address,
		started:   time.Now(),
		log:       d.log.With("migration", id, "pod", pod.FullName(), "to", req.To),
		feed:      newFeed(),
		done:      make(chan struct{}),
		converged: make(chan struct{}),
		phase:     nodev1.Phase_PHASE_PENDING,

		orchestrator: o,
		toPlace:      make(chan struct{}),
	}
	m.record = record{
		Migration: id,
		Stage:     sourcePreparing,
		Pod:       pod.FullName(),
		Peer:      req.To,
		Address:   address,
		Sandbox:   pod.ID,
		Started:   m.started,
		Kubelet:   req.Kubelet,
		LatePod:   req.LatePod,
		Caller:    callers,
	}
	timeout := time.Duration(req.TimeoutMs) * time.Millisecond
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	undecided, breakOff := context.WithCancelCause(d.life)
	timer := time.AfterFunc(timeout, func() { breakOff(fmt.Errorf("%w of %v", ErrTimeout, timeout)) })
	context.AfterFunc(undecided, func() { timer.Stop() })
	m.undecided, m.breakOff = undecided, breakOff
	return m
}

// newID names a migration: by day for who reads it, by chance for everyone.
func newID() string {
	var b [5]byte
	rand.Read(b[:])
	return "m-" + time.Now().UTC().Format("20060102") + "-" + hex.EncodeToString(b[:])
}

// forgetOutgoing takes a migration that ended off the list of those under way.
func (d *Daemon) forgetOutgoing(m *outgoing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.outgoing, m.id)
	// What could not be finished is still to be told to who asks.
	if r := m.current(); d.journal.has(m.id) {
		d.recovering[m.id] = r
	}
	d.remember(m.status())
}

func (d *Daemon) forgetIncoming(m *incoming) {
	m.mu.Lock()
	m.ended = time.Now()
	m.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.incoming, m.id)
	d.remember(m.status())
	d.observeEnd(m.status(), m.failure())
}

// admitMigration makes the incoming part of a migration that a peer asks for,
// if there is room.
func (d *Daemon) admitMigration(ctx context.Context, req *peerv1.PrepareRequest, peer string) (*incoming, error) {
	m, err := d.newIncoming(ctx, req, peer)
	if err != nil {
		return nil, err
	}
	available, err := availableMemory()
	if err != nil {
		return nil, err
	}
	group, err := ownGroup(cgroupRoot)
	if err != nil {
		d.log.Warn("whether a cgroup limits the store is not known", "error", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.stopping:
		return nil, fmt.Errorf("node %s is stopping: %w", d.config.NodeName, errdefs.ErrUnavailable)
	case d.incoming[m.id] != nil || d.outgoing[m.id] != nil:
		return nil, errKnown(m.id)
	}
	limit, err := room(roomRequest{
		node:      d.config.NodeName,
		memory:    req.Memory,
		available: available,
		coming:    d.coming(),
		group:     group,
		limit:     uint64(d.config.StoreLimit),
		reserved:  d.reserved(),
		others:    len(d.incoming),
		most:      d.config.MaxIncoming,
	})
	if err != nil {
		return nil, err
	}
	m.pod, m.memory, m.record.Memory = req.Memory, limit, limit
	if err := d.journal.save(m.record, throughReboot); err != nil {
		return nil, err
	}
	d.incoming[m.id] = m
	d.work.Go(func() { m.run(d.life) })
	return m, nil
}

// reserved is what all stores may take. It is called with mu held.
func (d *Daemon) reserved() uint64 {
	var n uint64
	for _, m := range d.incoming {
		n += m.memory
	}
	return n
}
