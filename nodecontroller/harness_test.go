package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/processcheck"
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Two daemons with everything of theirs real (services, mutual TLS, wire, store,
// journal), and stand-ins for what is another package's and tested there:
// containerd, and the shims with their processes.

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

// testNode is one node: its containerd and its daemon.
type testNode struct {
	cluster *testCluster
	name    string
	config  string
	socket  string
	state   string
	criu    string // its version
	metrics string // address
	// findings about its pods' processes; set before a migration is asked for.
	findings []obstacle.Finding
	// containers that are looked at while they are frozen; set likewise.
	containers []processcheck.Container

	mu   sync.Mutex
	pods map[string]*testPod

	daemon *Daemon
	crash  context.CancelFunc
	ended  chan error

	restarts sync.WaitGroup
}

// testCluster is two nodes.
type testCluster struct {
	t    *testing.T
	dir  string
	a, b *testNode

	features track.Features // what trackers find on both nodes; set before a pod moves
	slowFill bool           // a restored pod has its memory in when the test says so; set before it moves
	// remakes: a kubelet makes the sandbox of a destination's pod again.
	remakes atomic.Bool
	// orchestrator is known to daemons that start after it was set.
	orchestrator Orchestrator

	mu        sync.Mutex
	fault     *fault
	struck    chan struct{}
	running   map[string]bool
	twoAtOnce bool
	podLookup PodLookup // nil: every pod is there
	lost      []error   // that the cluster was told of
	pods      int
	// takeOverAfter replaces the daemons', from their next start on.
	takeOverAfter time.Duration
}

// note watches over the first invariant: at most one copy of the pod runs, ever.
func (c *testCluster) note(node string, runs bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[node] = runs
	if c.running["a"] && c.running["b"] {
		c.twoAtOnce = true
	}
}

func (c *testCluster) rootfs(id string) string {
	dir := filepath.Join(c.dir, "rootfs-"+id)
	_ = os.MkdirAll(dir, 0o755)
	return dir
}

func needStore(t *testing.T) {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "probe"), store.Options{Limit: 1 << 20})
	if err != nil {
		t.Skipf("no store can be mounted: %v", err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	needStore(t)
	// Unix sockets need a short path.
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Of a node that is off at the end of a test, nobody else clears up.
		stores, _ := filepath.Glob(filepath.Join(dir, "*-state", "store", "*"))
		for _, s := range stores {
			if err := store.Cleanup(s); err != nil {
				t.Errorf("store of a node that is off: %v", err)
			}
		}
		os.RemoveAll(dir)
	})
	c := &testCluster{t: t, dir: dir, running: make(map[string]bool), struck: make(chan struct{})}
	if err := pki.Init(filepath.Join(dir, "ca")); err != nil {
		t.Fatal(err)
	}
	addresses := map[string]string{"a": freeAddress(), "b": freeAddress()}
	c.a, c.b = c.newNode("a", addresses), c.newNode("b", addresses)
	c.a.start()
	c.b.start()
	t.Cleanup(func() {
		for _, n := range []*testNode{c.a, c.b} {
			n.stop()
			for _, p := range n.pods {
				p.server.Close()
			}
		}
	})
	return c
}

// freeAddress is an address of the loopback network that nobody else is on.
func freeAddress() string {
	return fmt.Sprintf("127.%d.%d.%d:7440", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
}

func (c *testCluster) newNode(name string, addresses map[string]string) *testNode {
	n := &testNode{cluster: c, name: name, criu: "4.2.1", pods: make(map[string]*testPod)}
	certs := filepath.Join(c.dir, name+"-pki")
	if err := pki.Issue(filepath.Join(c.dir, "ca"), name, []net.IP{net.IPv4(127, 0, 0, 1)}, certs); err != nil {
		c.t.Fatal(err)
	}
	n.socket, n.state = filepath.Join(c.dir, name+".sock"), filepath.Join(c.dir, name+"-state")
	n.config = filepath.Join(c.dir, name+".toml")
	host, _, _ := net.SplitHostPort(addresses[name])
	n.metrics = net.JoinHostPort(host, "7441")
	text := fmt.Sprintf("node_name = %q\nlisten = %q\nadvertise = %q\nmetrics_listen = %q\nsocket = %q\npki_dir = %q\nstate_dir = %q\n[peers]\n",
		name, addresses[name], addresses[name], n.metrics, n.socket, certs, n.state)
	for peer, address := range addresses {
		text += fmt.Sprintf("%s = %q\n", peer, address)
	}
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return n
}

// start starts the node's daemon, as after its end.
func (n *testNode) start() {
	t := n.cluster.t
	config, err := LoadConfig(n.config)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := wire.LoadCredentials(config.PKIDir)
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(filepath.Join(n.state, "migrations"), filepath.Join(n.state, "admit"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	d := newDaemon(config, creds, n, j, newPeerTable(n.config, config, log), log)
	d.self = func(context.Context) *peerv1.Node {
		return &peerv1.Node{Name: n.name, Architecture: "any", Criu: n.criu}
	}
	d.shimSocket = func(sandbox string) string { return filepath.Join(n.cluster.dir, sandbox+".shim") }
	d.startContainers = n.startContainers
	d.features = func(context.Context) track.Features { return n.cluster.features }
	if n.cluster.takeOverAfter > 0 {
		d.takeOverAfter = n.cluster.takeOverAfter
	}
	if o := n.cluster.orchestrator; o != nil {
		d.SetRecoveredOrchestrator(func(string) Orchestrator { return o })
	}
	d.SetPodLookup(func(ctx context.Context, namespace, name, uid string) error {
		n.cluster.mu.Lock()
		lookup := n.cluster.podLookup
		n.cluster.mu.Unlock()
		if lookup == nil {
			return nil
		}
		return lookup(ctx, namespace, name, uid)
	})
	d.processes = func(context.Context, cri.Pod, bool) ([]obstacle.Finding, error) { return n.findings, nil }
	d.containers = func(context.Context, cri.Pod) ([]processcheck.Container, error) { return n.containers, nil }
	ready := make(chan struct{})
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	n.daemon, n.ended = d, ended
	crashed := false
	n.crash = sync.OnceFunc(func() { crashed = true; d.stopLife(); stop() })
	go func() {
		err := d.Run(ctx, func() { close(ready) })
		if crashed {
			err = nil
		}
		ended <- err
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("daemon %s: %v", n.name, err)
	}
}

// stop ends the daemon as kill -9 would: nothing is said to anybody.
func (n *testNode) stop() {
	if n.crash == nil {
		return
	}
	n.crash()
	if err := <-n.ended; err != nil {
		n.cluster.t.Errorf("daemon %s: %v", n.name, err)
	}
	n.crash = nil
}

// dies is stop in the middle of a call: the daemon can do nothing more when it returns, and restarts waits for its end.
func (n *testNode) dies() {
	crash := n.crash
	n.restarts.Go(n.stop) // before anybody learns of it, and waits
	crash()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b[:len(b)-1])
	return len(b), nil
}

// newPod makes a pod whose shim listens.
func (n *testNode) newPod() *testPod {
	c := n.cluster
	c.mu.Lock()
	c.pods++
	id := fmt.Sprintf("%s%d", n.name, c.pods)
	c.mu.Unlock()
	p := &testPod{cluster: c, node: n.name, id: id, changed: make(chan struct{})}
	l, err := net.Listen("unix", filepath.Join(c.dir, id+".shim"))
	if err != nil {
		c.t.Fatal(err)
	}
	p.server, err = ttrpc.NewServer()
	if err != nil {
		c.t.Fatal(err)
	}
	shimv1.RegisterMigrationService(p.server, p)
	go p.server.Serve(context.Background(), l)
	n.mu.Lock()
	n.pods[id] = p
	n.mu.Unlock()
	return p
}

// run makes the pod that the test is about.
func (n *testNode) run() *testPod {
	p := n.newPod()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(shimv1.State_STATE_UNSPECIFIED, true)
	return p
}

func (n *testNode) pod(id string) *testPod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[id]
}

// only is the node's one pod, nil if it has none.
func (n *testNode) only() *testPod {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		return p
	}
	return nil
}

func (n *testNode) startContainers(ids []string) (*starts, error) {
	p := n.only()
	return &starts{waits: []func() error{func() error {
		<-p.parked
		return p.startErr
	}}}, nil
}

// What follows is podRuntime.

func (n *testNode) Pods(context.Context) ([]cri.Pod, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pods []cri.Pod
	for id, p := range n.pods {
		pod := cri.Pod{ID: id, Namespace: "default", Name: "p", UID: "u", Handler: cri.Handler, Ready: true,
			Containers: []cri.PodContainer{{ID: id + "c", Name: "main", Image: testImage, State: runtimev1.ContainerState_CONTAINER_RUNNING}}}
		p.mu.Lock()
		if p.parked != nil {
			pod.Annotations = map[string]string{annotation: p.migration}
		}
		p.mu.Unlock()
		pods = append(pods, pod)
	}
	return pods, nil
}

func (n *testNode) Find(ctx context.Context, _ string) (cri.Pod, error) {
	pods, err := n.Pods(ctx)
	if len(pods) == 0 {
		return cri.Pod{}, cri.ErrNoPod
	}
	return pods[0], err
}

const testImage = "sha256:e4c151f4cf1cecbbfb7a6a5f507387fb3241971a8137461908a67314021c6c84"

func (n *testNode) Describe(_ context.Context, p cri.Pod) (*cri.Description, error) {
	return &cri.Description{
		Handler:    cri.Handler,
		Sandbox:    &runtimev1.PodSandboxConfig{Metadata: &runtimev1.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: p.UID}},
		Containers: []cri.ContainerDescription{{ID: p.Containers[0].ID, Image: testImage, Config: &runtimev1.ContainerConfig{Metadata: &runtimev1.ContainerMetadata{Name: "main"}}}},
	}, nil
}

func (n *testNode) Recreate(_ context.Context, _ *cri.Description, _ cri.Node, annotations map[string]string) (cri.Made, error) {
	p := n.newDestination(annotations[annotation])
	return cri.Made{Sandbox: p.id, Containers: []string{p.id + "c"}}, nil
}

// newDestination makes a pod that comes with a migration.
func (n *testNode) newDestination(migration string) *testPod {
	p := n.newPod()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.migration, p.parked = migration, make(chan struct{})
	return p
}

func (n *testNode) ClearDeadTask(context.Context, string) error { return nil }

func (n *testNode) Remove(_ context.Context, id string) error {
	p := n.pod(id)
	if p == nil {
		return nil
	}
	p.kill()
	n.mu.Lock()
	delete(n.pods, id)
	n.mu.Unlock()
	if p.parked != nil && n.cluster.remakes.Load() {
		n.newDestination(p.migration)
	}
	return nil
}

func (n *testNode) Annotated(_ context.Context, _, migration string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []string
	for id, p := range n.pods {
		p.mu.Lock()
		if p.parked != nil && p.migration == migration {
			ids = append(ids, id)
		}
		p.mu.Unlock()
	}
	return ids, nil
}

func (n *testNode) IP(context.Context, string) (string, error)           { return "192.0.2.7", nil }
func (n *testNode) SharedMemory(context.Context, string) (string, error) { return "", nil }
func (n *testNode) Memory(context.Context) (map[string]uint64, error)    { return nil, nil }
func (n *testNode) Image(_ context.Context, id string) (cri.Image, error) {
	return cri.Image{ID: id, Target: id}, nil
}
func (n *testNode) NameImage(context.Context, cri.Image) error         { return nil }
func (n *testNode) Pull(context.Context, cri.Image) error              { return errors.New("no registry") }
func (n *testNode) Export(context.Context, cri.Image, io.Writer) error { return nil }
func (n *testNode) Import(context.Context, cri.Image, io.Reader) error { return nil }
func (n *testNode) ImageInUse(context.Context, string) (bool, error)   { return true, nil }
func (n *testNode) RemoveImage(context.Context, string) error          { return nil }
func (n *testNode) Version(context.Context) (string, error)            { return "test", nil }
func (n *testNode) Runtimes(context.Context) (map[string]cri.Runtime, error) {
	return nil, nil
}
func (n *testNode) Close() error { return nil }

// WhenTasksChange looks often: a stand-in has no events.
func (n *testNode) WhenTasksChange(ctx context.Context, look func(context.Context) (bool, error)) error {
	for {
		if done, err := look(ctx); err != nil || done {
			return err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

func (n *testNode) Volumes(context.Context, []string) ([]cri.Volume, error) { return nil, nil }

// migrate moves the pod from a to b as godwitctl does, and returns the last
// event that arrived.
func (c *testCluster) migrate(mode string) (*nodev1.Event, error) {
	return c.a.migrate(&nodev1.MigrateRequest{Pod: "p", To: "b", Mode: mode}, func(*nodev1.Event) {})
}

// migrate asks the node's daemon as godwitctl does, shows each event, and returns
// the last one that arrived.
func (n *testNode) migrate(req *nodev1.MigrateRequest, seen func(*nodev1.Event)) (*nodev1.Event, error) {
	conn, err := net.Dial("unix", n.socket)
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	stream, err := nodev1.NewNodeClient(client).Migrate(context.Background(), req)
	if err != nil {
		return nil, err
	}
	var last *nodev1.Event
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		seen(e)
		last = e
	}
}
