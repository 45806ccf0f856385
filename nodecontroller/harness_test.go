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

	"github.com/containerd/ttrpc"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/processcheck"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// Two daemons with everything of theirs real (services, mutual TLS, wire, store,
// journal), and stand-ins for what is another package's and tested there:
// containerd, and the shims with their processes.

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
	// logged sees what its daemon logs; set before that starts.
	logged func(line string)

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
	log := slog.New(slog.NewTextHandler(testWriter{t, n.logged}, nil))
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
		n.crash = nil
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

type testWriter struct {
	t    *testing.T
	also func(line string) // may be nil
}

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b[:len(b)-1])
	if w.also != nil {
		w.also(string(b))
	}
	return len(b), nil
}

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
