package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/processcheck"
	"godwit.dev/godwit/nodecontroller/queue"
	"godwit.dev/godwit/nodecontroller/standstill"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// stopGrace is how long a daemon that stops waits for its outgoing migrations.
const stopGrace = 20 * time.Second

// maxEnded is how many migrations that ended are remembered for a list.
const maxEnded = 100

// Daemon is the node daemon.
type Daemon struct {
	config  *Config
	peers   *peerTable
	creds   *wire.Credentials
	cri     podRuntime
	journal *journal
	// freezes is what those of this node's pods have cost.
	freezes *standstill.Memory
	log     *slog.Logger

	// shimSocket is where a sandbox's shim listens; startContainers begins the
	// starts of containers that will be parked.
	shimSocket      func(sandbox string) string
	startContainers func(containers []string) (*starts, error)
	// self says what this node is, features what trackers find on it.
	self     func(context.Context) *peerv1.Node
	features func(context.Context) track.Features
	// observers are fixed before Run.
	observers []Observer
	// podLookup is nil without a cluster; fixed before Run.
	podLookup PodLookup
	// takeOverAfter is as the constant says; fixed before Run.
	takeOverAfter time.Duration
	// processes says what of a pod's running processes is in the way of a move.
	// late says that the destination's pod comes only when they are gone.
	processes func(ctx context.Context, pod cri.Pod, late bool) ([]obstacle.Finding, error)
	// containers are a pod's that run.
	containers func(ctx context.Context, pod cri.Pod) ([]processcheck.Container, error)
	// cutovers are taken one at a time.
	cutovers turns
	// places are those of the migrations that leave this node; link is divided among them.
	places *queue.Queue
	link   *sharing

	// life ends, by stopLife, when the daemon stops; work are the migrations'
	// goroutines.
	life     context.Context
	stopLife context.CancelFunc
	work     sync.WaitGroup

	mu         sync.Mutex
	outgoing   map[string]*outgoing // under way, by migration, guarded by mu
	incoming   map[string]*incoming // under way, by migration, guarded by mu
	recovering map[string]record    // sources left by an earlier daemon, guarded by mu
	ended      []*nodev1.Migration  // the oldest first, guarded by mu
	stopping   bool                 // no new migrations, guarded by mu
	// orchestratorOf knows the orchestrators of records, orchestratorSet is closed
	// when it comes; both are guarded by mu.
	orchestratorOf  func(migration string) Orchestrator
	orchestratorSet chan struct{}
}

// New returns the daemon of the node that the configuration file describes.
func New(configFile string, log *slog.Logger) (*Daemon, error) {
	config, err := LoadConfig(configFile)
	if err != nil {
		return nil, err
	}
	creds, err := wire.LoadCredentials(config.PKIDir)
	if err != nil {
		return nil, err
	}
	if creds.Node() != config.NodeName {
		return nil, fmt.Errorf("certificate in %s is that of node %s, node_name is %s: issue one for this node",
			config.PKIDir, creds.Node(), config.NodeName)
	}
	j, err := openJournal(filepath.Join(config.StateDir, "migrations"), admitDir)
	if err != nil {
		return nil, err
	}
	client, err := cri.Dial(config.Containerd)
	if err != nil {
		return nil, err
	}
	d := newDaemon(config, creds, client, j, newPeerTable(configFile, config, log), log)
	d.self = func(ctx context.Context) *peerv1.Node { return describeNode(ctx, config, client) }
	d.processes = func(ctx context.Context, pod cri.Pod, late bool) ([]obstacle.Finding, error) {
		return lookAtProcesses(ctx, client, pod, late)
	}
	d.containers = func(ctx context.Context, pod cri.Pod) ([]processcheck.Container, error) {
		return containersOf(ctx, client, pod)
	}
	return d, nil
}

func newDaemon(config *Config, creds *wire.Credentials, pods podRuntime, j *journal, peers *peerTable, log *slog.Logger) *Daemon {
	life, stop := context.WithCancel(context.Background())
	return &Daemon{
		life:            life,
		stopLife:        stop,
		config:          config,
		peers:           peers,
		creds:           creds,
		cri:             pods,
		journal:         j,
		freezes:         standstill.Open(filepath.Join(config.StateDir, standstill.FileName), log),
		log:             log.With("node", config.NodeName),
		shimSocket:      shimv1.SocketPath,
		startContainers: func(ids []string) (*starts, error) { return startProcesses(config.Containerd, ids) },
		features:        func(ctx context.Context) track.Features { return track.Probe(ctx, nil) },
		takeOverAfter:   takeOverAfter,
		outgoing:        make(map[string]*outgoing),
		incoming:        make(map[string]*incoming),
		recovering:      make(map[string]record),
		orchestratorSet: make(chan struct{}),
		places:          queue.New(config.Places()),
		link:            &sharing{link: float64(config.BandwidthLimit)},
	}
}

// podRuntime is what the daemon asks of package cri's Client.
type podRuntime interface {
	Pods(context.Context) ([]cri.Pod, error)
	Find(ctx context.Context, ref string) (cri.Pod, error)
	Describe(context.Context, cri.Pod) (*cri.Description, error)
	Recreate(context.Context, *cri.Description, cri.Node, map[string]string) (cri.Made, error)
	WhenTasksChange(ctx context.Context, look func(context.Context) (bool, error)) error
	Remove(ctx context.Context, sandbox string) error
	ClearDeadTask(ctx context.Context, container string) error
	Annotated(ctx context.Context, key, value string) ([]string, error)
	IP(ctx context.Context, sandbox string) (string, error)
	Memory(context.Context) (map[string]uint64, error)
	SharedMemory(ctx context.Context, container string) (string, error)
	Volumes(ctx context.Context, containers []string) ([]cri.Volume, error)
	Image(ctx context.Context, id string) (cri.Image, error)
	NameImage(context.Context, cri.Image) error
	Pull(context.Context, cri.Image) error
	Export(context.Context, cri.Image, io.Writer) error
	Import(context.Context, cri.Image, io.Reader) error
	ImageInUse(ctx context.Context, id string) (bool, error)
	RemoveImage(ctx context.Context, id string) error
	Version(context.Context) (string, error)
	Runtimes(context.Context) (map[string]cri.Runtime, error)
	Close() error
}

// Run serves until ctx ends. ready is called when both services listen. It
// returns when every migration is broken off, or left to the next daemon.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	defer d.cri.Close()
	defer d.stopLife()
	if err := d.sweep(); err != nil {
		return err
	}
	listener, err := wire.Listen(d.config.Listen, d.creds, wire.WithLogger(d.log))
	if err != nil {
		return err
	}
	defer listener.Close()
	socket, err := listenSocket(d.config.Socket)
	if err != nil {
		return err
	}
	defer os.Remove(d.config.Socket)
	server, err := d.nodeServer()
	if err != nil {
		return err
	}
	metrics, err := d.openMetrics()
	if err != nil {
		return err
	}
	// What an earlier daemon left is known before a peer can ask for it: one that heard that it is not would drop the pod.
	d.recover()
	// The services go on while migrations are broken off: the peers, and
	// godwitctl, have a part in that.
	serving, stopServing := context.WithCancel(d.life)
	defer stopServing()
	group, serving := errgroup.WithContext(serving)
	group.Go(func() error { return listener.Serve(serving, d.admit) })
	group.Go(func() error { return metrics.serve(serving) })
	group.Go(func() error { return d.servePeers(serving, listener.Control()) })
	group.Go(func() error { return d.serveDemand(serving, listener.Demand()) })
	group.Go(func() error { return ignoreClosed(server.Serve(serving, socket)) })
	group.Go(func() error {
		<-serving.Done()
		return server.Close()
	})
	d.log.Info("serving", "peers", listener.Addr().String(), "socket", d.config.Socket)
	ready()

	select {
	case <-ctx.Done():
	case <-serving.Done(): // a service failed
	}
	d.breakOffAll()
	d.stopLife()
	d.work.Wait()
	stopServing()
	return group.Wait()
}

// breakOffAll ends the outgoing migrations that are not committed, and gives
// the others a moment to end.
func (d *Daemon) breakOffAll() {
	d.mu.Lock()
	d.stopping = true
	var under []*outgoing
	for _, m := range d.outgoing {
		under = append(under, m)
	}
	d.mu.Unlock()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	for _, m := range under {
		_ = m.abort(errStopping)
	}
	for _, m := range under {
		select {
		case <-m.done:
		case <-grace.C:
			return
		}
	}
}

// sweep removes the mounts and files of migrations that no record names.
func (d *Daemon) sweep() error {
	for _, sub := range []string{"store", "images", spoolDir} {
		dir := filepath.Join(d.config.StateDir, sub)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		for _, e := range entries {
			if _, err := d.journal.read(e.Name()); !errors.Is(err, os.ErrNotExist) {
				continue // its record decides, or an operator who repairs it
			}
			path := filepath.Join(dir, e.Name())
			d.log.Warn("removing what a migration without a record left", "path", path)
			if sub == "store" {
				err = store.Cleanup(path)
			} else {
				err = os.RemoveAll(path)
			}
			if err != nil {
				d.log.Error("orphan not removed", "path", path, "error", err)
			}
		}
	}
	return nil
}

// recover carries on with what an earlier daemon left.
func (d *Daemon) recover() {
	records, err := d.journal.load()
	if err != nil {
		d.log.Error("part of the journal cannot be read", "error", err)
	}
	for _, r := range records {
		log := d.log.With("migration", r.Migration)
		log.Info("recovering a migration of an earlier daemon", "stage", string(r.Stage), "peer", r.Peer)
		if !r.Stage.source() {
			d.resumeIncoming(r, log)
			continue
		}
		d.mu.Lock()
		d.recovering[r.Migration] = r
		d.mu.Unlock()
		d.work.Go(func() {
			committed, err := d.recoverSource(d.life, r, log)
			log.Info("recovery ended", "committed", committed, "error", err)
			if !errors.Is(err, errInDoubt) && d.life.Err() == nil {
				d.mu.Lock()
				delete(d.recovering, r.Migration)
				d.remember(recoveredStatus(r, d.config.NodeName, committed, err))
				d.mu.Unlock()
			}
		})
	}
}

// remember keeps what a migration that ended looked like.
func (d *Daemon) remember(s *nodev1.Migration) {
	d.ended = append(d.ended, s)
	if len(d.ended) > maxEnded {
		d.ended = d.ended[1:]
	}
}

// listenSocket opens the socket for godwitctl, for root only.
func listenSocket(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("socket for godwitctl: %w", err)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("socket for godwitctl: another daemon listens on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket for godwitctl: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket for godwitctl: %w", err)
	}
	return l, nil
}

// ignoreClosed makes the intended end of a ttrpc server no error.
func ignoreClosed(err error) error {
	if errors.Is(err, ttrpc.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
