package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// migrations serves the Migration service. A shim takes part in one migration
// at a time, as its source or as its destination.
type migrations struct {
	pod     *pod
	monitor *restoreMonitor
	log     *slog.Logger

	mu          sync.Mutex
	server      *ttrpc.Server // guarded by mu; nil until the pod is known
	socket      string        // guarded by mu
	source      *source       // the last source migration, guarded by mu
	destination *destination  // the last destination migration, guarded by mu
}

func newMigrations(p *pod, monitor *restoreMonitor) *migrations {
	// The shim framework has set up where this shim's log goes.
	out := log.L.Logger.Out
	return &migrations{pod: p, monitor: monitor, log: slog.New(slog.NewTextHandler(out, nil))}
}

// listen opens the service's socket once the pod's id is known.
func (m *migrations) listen(ctx context.Context, podID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != nil {
		return nil
	}
	if err := os.MkdirAll(shimv1.SocketDir, 0o700); err != nil {
		return fmt.Errorf("make directory of shim sockets: %w", err)
	}
	path := shimv1.SocketPath(podID)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove stale shim socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for the node daemon: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return fmt.Errorf("protect shim socket: %w", err)
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		listener.Close()
		return fmt.Errorf("migration service: %w", err)
	}
	shimv1.RegisterMigrationService(server, &service{m})
	m.server, m.socket = server, path
	go server.Serve(context.WithoutCancel(ctx), listener) // ends with close
	return nil
}

// close ends the service with the shim.
func (m *migrations) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != nil {
		m.server.Close()
		os.Remove(m.socket)
	}
}

// errNoMigration answers a call about a migration that this shim has no part in.
func errNoMigration(id string) error {
	return errgrpc.ToGRPCf(errdefs.ErrNotFound, "migration %s: this pod's shim has no part in it", id)
}

func (m *migrations) getSource(id string) (*source, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.source == nil || m.source.id != id {
		return nil, errNoMigration(id)
	}
	return m.source, nil
}

func (m *migrations) getDestination(id string) (*destination, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.destination == nil || m.destination.id != id {
		return nil, errNoMigration(id)
	}
	return m.destination, nil
}

// begin makes this shim a source, unless it takes part in something already.
func (m *migrations) begin(r *shimv1.BeginRequest) (*source, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.source; s != nil && s.committed() {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "the pod has moved to node %s with migration %s", s.request.GetPeerName(), s.id)
	}
	if s := m.source; s != nil && !s.over() {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "migration %s of this pod is under way", s.id)
	}
	if d := m.destination; d != nil && !d.over() {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition,
			"the pod is still arriving with migration %s; wait until all its memory is here", d.id)
	}
	s, err := newSource(m.pod, m.log, r)
	if err != nil {
		return nil, refuse(r.GetMigration(), err)
	}
	m.source = s
	return s, nil
}

// expectArrival returns the record of a container that is to be a destination,
// before its start has come.
func (m *migrations) expectArrival(c *container) (*arrival, bool) {
	d, err := m.expectDestination(c.migration)
	if err != nil {
		return nil, false
	}
	return d.arrival(c.id), true
}

// startDestination parks and restores one container.
func (m *migrations) startDestination(ctx context.Context, c *container, start startFunc) (*taskAPI.StartResponse, error) {
	m.mu.Lock()
	if m.destination == nil || m.destination.id != c.migration {
		m.destination = newDestination(c.migration, m.pod.placeholder, m.monitor, m.log)
	}
	d := m.destination
	m.mu.Unlock()
	return d.start(ctx, c, start)
}

// expectDestination returns the destination, which a daemon may ask about
// before the first container has got here.
func (m *migrations) expectDestination(id string) (*destination, error) {
	if !migrationID.MatchString(id) {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "malformed migration id")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.destination; d != nil && d.id != id && !d.over() {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "the pod is the destination of migration %s", d.id)
	}
	if m.destination == nil || m.destination.id != id {
		m.destination = newDestination(id, m.pod.placeholder, m.monitor, m.log)
	}
	return m.destination, nil
}

// arrival returns what became of a container's start as a destination.
func (m *migrations) arrival(container string) (*arrival, bool) {
	m.mu.Lock()
	d := m.destination
	m.mu.Unlock()
	if d == nil {
		return nil, false
	}
	return d.find(container)
}

// arrived says whether the pod has come with this migration. Its annotation
// stays on the pod, and so on every container that is made in it later.
func (m *migrations) arrived(id string) bool {
	m.mu.Lock()
	d := m.destination
	m.mu.Unlock()
	return d != nil && d.id == id && d.committed()
}

// cancel ends the wait of a destination's container that does not run yet.
func (m *migrations) cancel(container string, cause error) {
	m.mu.Lock()
	d := m.destination
	m.mu.Unlock()
	if d != nil {
		d.cancel(container, cause)
	}
}

// cancelAll ends the waits of all containers of a destination, if this shim is one.
func (m *migrations) cancelAll(cause error) {
	m.mu.Lock()
	d := m.destination
	m.mu.Unlock()
	if d != nil {
		d.cancelAll(cause)
	}
}

// refuseDeparted is the error for a container that somebody starts in a pod that
// has moved away: to kubelet its containers have failed, and it would start the
// pod again here until it hears that the pod is gone.
func (m *migrations) refuseDeparted(container string) error {
	m.mu.Lock()
	s := m.source
	m.mu.Unlock()
	if s == nil || !s.committed() {
		return nil
	}
	return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "container %s: the pod has moved to node %s with migration %s, it does not run here again",
		container, s.request.GetPeerName(), s.id)
}

func (m *migrations) forget(container string) {
	m.mu.Lock()
	d := m.destination
	m.mu.Unlock()
	if d != nil {
		d.forget(container)
	}
}

// dumpDir is the workDir of a source.
func dumpDir(c *container) string { return filepath.Join(c.bundle, "godwit", "dump") }

// workDir is a container's private directory for one migration, root-only, in
// its bundle and so gone with it.
func workDir(c *container, name string) (string, error) {
	dir := filepath.Join(c.bundle, "godwit", name)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("clear work directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make work directory: %w", err)
	}
	return dir, nil
}
