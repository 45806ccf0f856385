package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrNoNode is returned for a node that the lab does not have, or that does not run.
var ErrNoNode = errors.New("no such node runs; see godwit-lab status, and bring it up with godwit-lab up")

// DefaultNodes is how many nodes a lab has if nobody says otherwise.
const DefaultNodes = 2

// Options say what lab is wanted.
type Options struct {
	// Dir is the lab's directory; empty means GODWIT_LAB_DIR, or else the machine's default lab.
	Dir string
	// Nodes is how many nodes there shall be, called a, b, c...; 0 means DefaultNodes. Nodes beyond it are kept.
	Nodes int
	// Names are the nodes' names, instead of Nodes.
	Names []string
	// Shape is what the links are like.
	Shape Shape
	// Bin is the directory with the project's binaries, which the nodes see as it is at any moment; empty means what
	// FindBin finds.
	Bin string
	// Kubernetes makes the nodes a cluster; see Cluster. A lab of which nodes run already must have been one from the start, and
	// a lab that is one stays one until it is taken down, asked for again or not.
	Kubernetes bool
	// Bare leaves everything of the project's off the nodes: no programs, no runtime in containerd's configuration, no
	// certificate, no godwit-node, no runtime class. It is for tests of installing it. A lab of which nodes run stays as it is.
	Bare bool
	// Log takes a line for each step; nil for none.
	Log *slog.Logger
}

// Lab is a set of nodes that run, at the moment it was opened.
type Lab struct {
	layout
	nodes []*Node
	bin   string
	shape Shape
	log   *slog.Logger

	bare       bool
	kubernetes string     // directory with its programs, empty for a lab without
	attacher   string     // directory with csi-attacher, of a lab with Kubernetes
	authority  *authority // of the cluster, while up builds it
	control    *Node      // the machine of the control plane, if it runs
}

// config is what up writes of the lab as a whole.
type config struct {
	Rate  uint64        `json:"rate_bits_per_second"`
	Delay time.Duration `json:"delay_ns"`
	Bin   string        `json:"bin"`
	// Kubernetes is the directory with its programs, or empty, and Attacher that with csi-attacher.
	Kubernetes string `json:"kubernetes,omitempty"`
	Attacher   string `json:"attacher,omitempty"`
	Bare       bool   `json:"bare,omitempty"`
}

func (l layout) configFile() string { return filepath.Join(l.state, "lab.json") }

// FindBin finds the directory of the project's binaries: GODWIT_BIN, or the bin directory beside the go.mod above the
// working directory, or where the running program is.
func FindBin() (string, error) {
	if dir := os.Getenv("GODWIT_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("binaries: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "bin"), nil
		}
		if dir == "/" {
			break
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("binaries: %w", err)
	}
	return filepath.Dir(exe), nil
}

// Up brings the lab to what the options say. Nodes that run are kept as they are, with their pods, but get the wanted link
// and the current binaries; nodes that died are built again from nothing, with the lab's images. If ctx ends, the nodes
// being built are removed. The lab stays up after the caller has ended: Down ends it.
func Up(ctx context.Context, o Options) (*Lab, error) {
	lo, err := newLayout(o.Dir)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: nodes need root: namespaces, mounts, cgroups")
	}
	l := &Lab{layout: lo, bin: o.Bin, shape: o.Shape, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if l.bin == "" {
		if l.bin, err = FindBin(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(l.bin, 0o755); err != nil {
		return nil, fmt.Errorf("binaries: %w", err)
	}
	root, err := l.nodeRoot(ctx)
	if err != nil {
		return nil, err
	}
	pause, err := l.pauseImage(ctx)
	if err != nil {
		return nil, err
	}
	if o.Kubernetes {
		if l.kubernetes, err = l.kubernetesBin(ctx); err != nil {
			return nil, err
		}
		if l.attacher, err = l.attacherBin(ctx); err != nil {
			return nil, err
		}
	}
	release, err := flock(ctx, l.lockFile())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := l.up(ctx, o, root, pause); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context, o Options, root string, pause imageRecord) error {
	if err := os.MkdirAll(filepath.Join(l.data, "nodes"), 0o711); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	kept, wanted, err := l.plan(o)
	if err != nil {
		return err
	}
	var before config
	if err := readJSON(l.configFile(), &before); err == nil && before.Bin != l.bin && len(kept) > 0 {
		return fmt.Errorf("the nodes that run see the binaries in %s, not %s; take the lab down first", before.Bin, l.bin)
	}
	planned, err := planKubernetes(l.kubernetes, before, len(kept))
	if err != nil {
		return err
	}
	if planned != l.kubernetes {
		l.kubernetes, l.attacher = planned, before.Attacher
	}
	if l.bare = o.Bare; len(kept) > 0 {
		l.bare = before.Bare
	}
	c := config{Rate: l.shape.Rate, Delay: l.shape.Delay, Bin: l.bin, Kubernetes: l.kubernetes, Attacher: l.attacher, Bare: l.bare}
	if err := writeJSON(l.configFile(), c); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := l.ensureBridge(ctx); err != nil {
		return err
	}
	if l.kubernetes != "" {
		if err := l.prepareCluster(); err != nil {
			return err
		}
	}
	all := append(slices.Clone(kept), wanted...)
	images, err := l.imageRecords()
	if err != nil {
		return err
	}
	images = append([]imageRecord{pause}, images...)

	g, gctx := errgroup.WithContext(ctx)
	built := make([]nodeState, len(wanted))
	for i, s := range wanted {
		g.Go(func() error {
			var err error
			built[i], err = l.build(gctx, s, all, root, images)
			return err
		})
	}
	for i := range kept {
		g.Go(func() error { return l.keep(gctx, &kept[i], all) })
	}
	var control []nodeState
	if l.kubernetes != "" {
		g.Go(func() error {
			s, err := l.ensureControl(gctx, all, root)
			control = append(control, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	weighCgroup(l.cgroup())
	states := append(kept, built...)
	slices.SortFunc(states, func(a, b nodeState) int { return a.Index - b.Index })
	if err := l.route(states, control); err != nil {
		return err
	}
	for _, s := range states {
		l.nodes = append(l.nodes, newNode(l, s))
	}
	if l.kubernetes == "" {
		return nil
	}
	l.control = newNode(l, control[0])
	return l.awaitCluster(ctx, states)
}

// plan says which nodes are kept and which are built, with a name and an index each. What is left of dead nodes is removed.
func (l *Lab) plan(o Options) (kept, wanted []nodeState, err error) {
	names := o.Names
	if len(names) == 0 {
		n := o.Nodes
		if n == 0 {
			n = DefaultNodes
		}
		names = defaultNames(min(max(n, 0), MaxNodes))
	}
	known, err := l.knownNodes()
	if err != nil {
		return nil, nil, err
	}
	taken := map[int]bool{}
	running := map[string]bool{}
	for _, name := range known {
		if name == controlName {
			continue // ensureControl's
		}
		s, err := l.readState(name)
		if err == nil && s.alive() {
			kept, taken[s.Index], running[name] = append(kept, s), true, true
			continue
		}
		if err := l.destroy(name); err != nil {
			return nil, nil, err
		}
		if !slices.Contains(names, name) {
			names = append(slices.Clone(names), name)
		}
	}
	next := 0
	for _, name := range names {
		if !nodeName.MatchString(name) {
			return nil, nil, fmt.Errorf("node name %q: want lower-case letters, digits and dashes, a letter first", name)
		}
		if name == controlName {
			return nil, nil, fmt.Errorf("node name %s: Kubernetes's control plane has it", name)
		}
		if running[name] {
			continue
		}
		running[name] = true
		for taken[next] {
			next++
		}
		if next >= MaxNodes {
			return nil, nil, fmt.Errorf("node %s: a lab has at most %d nodes", name, MaxNodes)
		}
		taken[next] = true
		wanted = append(wanted, nodeState{Name: name, Index: next})
	}
	return kept, wanted, nil
}

// Open returns the lab of dir (empty for the default one) with the nodes that run now, which may be none.
func Open(dir string) (*Lab, error) {
	lo, err := newLayout(dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{layout: lo, log: slog.New(slog.DiscardHandler)}
	l.findBase()
	var c config
	if err := readJSON(l.configFile(), &c); err == nil {
		l.bin, l.shape, l.kubernetes, l.bare = c.Bin, Shape{Rate: c.Rate, Delay: c.Delay}, c.Kubernetes, c.Bare
	}
	names, err := l.knownNodes()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s, err := l.readState(name)
		switch {
		case err != nil || !s.alive():
		case s.Role == roleControl:
			l.control = newNode(l, s)
		default:
			l.nodes = append(l.nodes, newNode(l, s))
		}
	}
	slices.SortFunc(l.nodes, func(a, b *Node) int { return a.state.Index - b.state.Index })
	return l, nil
}

// Nodes are the lab's nodes in the order of their addresses.
func (l *Lab) Nodes() []*Node { return slices.Clone(l.nodes) }

// Node finds a node by name, or is nil. The machine of a cluster's control plane is found as "control-plane".
func (l *Lab) Node(name string) *Node {
	if l.control != nil && l.control.Name == name {
		return l.control
	}
	for _, n := range l.nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// Find is Node with an error, ErrNoNode, for what users type.
func (l *Lab) Find(name string) (*Node, error) {
	if n := l.Node(name); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("node %s: %w", name, ErrNoNode)
}

// Close lets connections to the nodes go. The lab stays up.
func (l *Lab) Close() error {
	var errs []error
	for _, n := range l.nodes {
		errs = append(errs, n.closeCRI())
	}
	return errors.Join(errs...)
}

// Down closes the lab and removes it; see the function Down.
func (l *Lab) Down(ctx context.Context) error {
	_ = l.Close()
	release, err := flock(ctx, l.lockFile())
	if err != nil {
		return err
	}
	defer release()
	return l.down()
}

// SetLog makes an opened lab tell of each step to log.
func (l *Lab) SetLog(log *slog.Logger) { l.log = log }
