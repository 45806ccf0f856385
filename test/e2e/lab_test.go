package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// errUnavailable says why no lab can be brought up here: the tests are skipped.
var errUnavailable = errors.New("no lab here")

// labDir is where the lab of these tests is: always the same, so that what a killed run left is found by the next.
func labDir() string {
	if dir := os.Getenv("GODWIT_E2E_DIR"); dir != "" {
		return dir
	}
	return "/var/tmp/godwit-e2e"
}

func keepLab() bool { return os.Getenv("GODWIT_E2E_KEEP") != "" }

// the lab of all tests, brought up by the first that asks.
var the struct {
	once sync.Once
	lab  *lab.Lab
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if the.lab != nil && !keepLab() {
		if err := the.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if theCluster.lab != nil && !keepLab() {
		if err := theCluster.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// probe says whether a lab can be brought up.
func probe() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: nodes need root", errUnavailable)
	}
	bin, err := lab.FindBin()
	if err != nil {
		return err
	}
	for _, name := range []string{"godwit-node", "godwitctl", "containerd-shim-godwit-v2"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: %w: run make build", errUnavailable, err)
		}
	}
	return nil
}

func bringUp(ctx context.Context) (*lab.Lab, error) {
	if err := probe(); err != nil {
		return nil, err
	}
	if !keepLab() {
		if err := lab.Down(ctx, labDir()); err != nil {
			return nil, err
		}
	}
	l, err := lab.Up(ctx, lab.Options{Dir: labDir(), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, l); err != nil {
		return l, err
	}
	return l, useCRIU(ctx, l.Nodes()...)
}

// warm runs a pod on each node and removes it: the first one leaves directories, cgroups and a bridge for all that follow.
func warm(ctx context.Context, l *lab.Lab) error {
	ref, ok := images["workload"]
	if !ok {
		var err error
		if ref, err = workload.Image(ctx, l); err != nil {
			return err
		}
		images["workload"] = ref
	}
	var nodes errgroup.Group
	for _, n := range l.Nodes() {
		nodes.Go(func() error { return warmNode(ctx, n, ref) })
	}
	return nodes.Wait()
}

// warmNode is warm for one node, unless it had a pod already: a lab that was kept.
func warmNode(ctx context.Context, n *lab.Node, ref string) error {
	if _, err := os.Stat(n.Path("/var/lib/cni/networks")); err == nil {
		return nil
	}
	p, err := n.RunPod(ctx, lab.PodSpec{Name: "warm", Containers: []lab.ContainerSpec{{Image: ref, Command: []string{"/" + workload.Printer, workload.Port}}}})
	if err != nil {
		return err
	}
	if err := n.RemovePod(ctx, p.ID); err != nil {
		return err
	}
	return os.RemoveAll(n.Path("/var/log/pods/warm"))
}

// theLab is the lab, with its nodes as they run now.
func theLab(t *testing.T) *lab.Lab {
	t.Helper()
	the.once.Do(func() { the.lab, the.err = bringUp(context.Background()) })
	if errors.Is(the.err, errUnavailable) {
		t.Skip(the.err)
	}
	if the.err != nil {
		t.Fatal(the.err)
	}
	return the.lab
}

// nodes are the two between which a test moves; if it fails it tells what they wrote since it began.
func nodes(t *testing.T) (a, b *lab.Node) {
	t.Helper()
	l := theLab(t)
	a, b = l.Node("a"), l.Node("b")
	if a == nil || b == nil || !a.Alive() || !b.Alive() {
		t.Fatal("the lab's nodes are gone")
	}
	explain(t, a, b)
	return a, b
}

// image returns an image of Debian packages, made by the first test that asks.
func image(t *testing.T, name string, packages ...string) string {
	t.Helper()
	return makeImage(t, name, func(ctx context.Context, l *lab.Lab) (string, error) {
		return l.AddImage(ctx, lab.ImageSpec{Name: name, Debian: packages})
	})
}

// workloads returns the image with the programs of package workload.
func workloads(t *testing.T) string {
	t.Helper()
	return makeImage(t, "workload", func(ctx context.Context, l *lab.Lab) (string, error) { return workload.Image(ctx, l) })
}

var images = map[string]string{} // tests do not run side by side

func makeImage(t *testing.T, name string, build func(context.Context, *lab.Lab) (string, error)) string {
	t.Helper()
	l := theLab(t)
	if ref, ok := images[name]; ok {
		return ref
	}
	ref, err := build(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	images[name] = ref
	return ref
}

// within is a context of the test that ends after d, on a machine that is as fast as most.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(d))
	t.Cleanup(cancel)
	return ctx
}
