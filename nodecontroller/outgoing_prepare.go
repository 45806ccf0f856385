package nodecontroller

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/processcheck"
)

// How the two daemons know that the other lives, until the commit.
const (
	heartbeatInterval = time.Second
	heartbeatDeadline = 5 * time.Second
)

// prepare brings the destination to where its containers are parked, or, if kubelet
// makes them later, to where memory may come.
func (m *outgoing) prepare() error {
	ctx := m.undecided
	pod, err := m.awaitMemory(ctx)
	if err != nil {
		return m.fail(err)
	}
	if err := m.takePlace(ctx); err != nil {
		return m.fail(err)
	}
	m.move(nodev1.Phase_PHASE_PREPARING, "preparing", "asking "+m.request.To+" to take the pod in")
	if err := m.describe(ctx, pod); err != nil {
		return m.fail(err)
	}
	if err := m.connect(ctx); err != nil {
		return m.fail(err)
	}
	images, err := m.images(ctx)
	if err != nil {
		return m.fail(err)
	}
	missing, err := m.askToPrepare(ctx, images)
	if err != nil {
		return m.fail(err)
	}
	for _, i := range images {
		if !missing[i.ID] {
			continue
		}
		if err := m.sendImage(ctx, i); err != nil {
			return m.fail(err)
		}
	}
	if m.orchestrator != nil {
		return nil
	}
	return m.fail(m.create(ctx))
}

func (m *outgoing) describe(ctx context.Context, pod cri.Pod) error {
	d, err := m.d.cri.Describe(ctx, pod)
	if err != nil {
		return err
	}
	delete(d.Sandbox.Annotations, annotation)
	for _, c := range d.Containers {
		delete(c.Config.Annotations, annotation)
	}
	m.description = d
	if m.orchestrator != nil {
		m.volumes = d.Volumes()
	}
	memory, err := m.d.cri.Memory(ctx)
	if err != nil {
		m.log.Warn("the pod's memory is not known, the destination cannot reserve room", "error", err)
	}
	m.memory = memory[m.pod.ID]
	shared, err := m.sharedMemory(ctx)
	if err != nil {
		m.log.Warn("the pod's shared memory is not known, the destination does not count it twice", "error", err)
	}
	m.memory += shared
	return nil
}

// sharedMemory is what the destination has twice until the pod runs there.
func (m *outgoing) sharedMemory(ctx context.Context) (uint64, error) {
	containers, err := m.d.containers(ctx, m.pod)
	if err != nil {
		return 0, err
	}
	return processcheck.SharedMemory(containers)
}

// connect dials the destination and keeps the connection alive. The record is
// on disk before: a destination that asks must not be told of an unknown
// migration while this one goes on.
func (m *outgoing) connect(ctx context.Context) error {
	if err := m.save(sourcePreparing, throughReboot); err != nil {
		return err
	}
	p, err := m.d.dialPeer(ctx, m.request.To, m.address)
	if err != nil {
		return err
	}
	m.peer = p
	return nil
}

// heartbeat breaks the migration off when the destination says that it failed,
// or says nothing. Before it is prepared it may not know the migration yet.
func (m *outgoing) heartbeat(ctx context.Context, prepared *atomic.Bool) {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		pctx, cancel := context.WithTimeout(ctx, heartbeatDeadline)
		r, err := m.peer.Ping(pctx, &peerv1.PingRequest{Migration: m.id})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case !prepared.Load() && isCode(err, errdefs.IsNotFound):
		case err != nil:
			_ = m.abort(fmt.Errorf("node %s: %w: %w", m.request.To, ErrPeerSilent, err))
			return
		case r.Error != "":
			_ = m.abort(fmt.Errorf("node %s: %s", m.request.To, r.Error))
			return
		}
	}
}

// images are the pod's, each once.
func (m *outgoing) images(ctx context.Context) ([]cri.Image, error) {
	var images []cri.Image
	seen := make(map[string]bool)
	for _, c := range m.description.Containers {
		if seen[c.Image] {
			continue
		}
		seen[c.Image] = true
		i, err := m.d.cri.Image(ctx, c.Image)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", c.Name(), err)
		}
		images = append(images, i)
	}
	return images, nil
}

// askToPrepare returns the ids of the images that must be sent.
func (m *outgoing) askToPrepare(ctx context.Context, images []cri.Image) (map[string]bool, error) {
	description, err := m.description.Encode()
	if err != nil {
		return nil, err
	}
	m.token = make([]byte, tokenSize)
	rand.Read(m.token)
	self := m.d.self(ctx)
	req := &peerv1.PrepareRequest{
		Migration:   m.id,
		Token:       m.token,
		Source:      self,
		Description: description,
		Memory:      m.memory,
		Kubelet:     m.orchestrator != nil,
		LatePod:     m.request.LatePod,
		CompareDump: m.request.CompareDump,
	}
	for _, v := range m.volumes {
		req.Volumes = append(req.Volumes, v.Name)
	}
	for _, i := range images {
		req.Images = append(req.Images, &peerv1.Image{Id: i.ID, Target: i.Target, Names: i.Names, RepoDigests: i.RepoDigests})
	}
	var prepared atomic.Bool
	m.goroutines.Go(func() { m.heartbeat(m.undecided, &prepared) })
	r, err := m.peer.Prepare(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("node %s does not take the pod in: %w", m.request.To, plain(err))
	}
	prepared.Store(true)
	m.mu.Lock()
	m.record.PeerBoot = r.Boot // on record with the next stage, before anything is decided
	m.mu.Unlock()
	if err := compatible(self, r.Node); err != nil {
		return nil, err
	}
	if m.request.CompareDump && !r.ComparesDump {
		return nil, fmt.Errorf("node %s cannot compare with CRIU's own dump: its godwit-node is older; update it, or leave --compare-dump out", m.request.To)
	}
	missing := make(map[string]bool)
	for _, id := range r.MissingImages {
		missing[id] = true
	}
	m.tell("prepared", fmt.Sprintf("%s takes the pod in (%d of %d images to send)", m.request.To, len(missing), len(images)))
	return missing, nil
}

func (m *outgoing) create(ctx context.Context) error {
	r, err := m.peer.Create(ctx, &peerv1.CreateRequest{Migration: m.id})
	if err != nil {
		return fmt.Errorf("node %s cannot make the pod: %w", m.request.To, plain(err))
	}
	m.mu.Lock()
	m.destination = &nodev1.Destination{Node: m.request.To, Sandbox: r.Sandbox, PodIp: r.PodIp}
	m.mu.Unlock()
	m.tell("created", fmt.Sprintf("sandbox %.12s with address %s waits on %s", r.Sandbox, r.PodIp, m.request.To))
	return nil
}
