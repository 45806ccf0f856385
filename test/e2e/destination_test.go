package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// An image that the destination does not have, and that no registry has, comes from the source.
func TestAnImageThatIsMissingIsSent(t *testing.T) {
	a, b := nodes(t)
	root := t.TempDir()
	if err := workload.Build(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	// New content each time: no other image of the node has this layer.
	content := make([]byte, 3<<20)
	rand.Read(content)
	if err := os.WriteFile(filepath.Join(root, "random"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	ref, err := theLab(t).AddImage(t.Context(), lab.ImageSpec{Name: "only-on-a", Dir: root, Nodes: []string{a.Name}})
	if err != nil {
		t.Fatal(err)
	}
	if has(t, b, ref) != "" {
		t.Fatal("node b has the image already")
	}
	p := runPod(t, a, lab.PodSpec{Name: "sent", Containers: []lab.ContainerSpec{{Name: "ticker", Image: ref, Command: []string{"/ticker", workload.Port}}}})
	ctx := within(t, moveTimeout)
	m, err := move.Start(ctx, a, p.name, b.Name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := m.Event("image"); !ok {
		t.Errorf("no image was sent: %s", m.Kinds())
	}
	p.moved(b, r)
	p.check(workload.Port)
	got, err := os.ReadFile(p.rootfs("ticker") + "/random")
	if err != nil || string(got) != string(content) {
		t.Errorf("the image's content is another on node b: %v", err)
	}
}

// has is the ID of an image on a node, empty if it does not have it.
func has(t *testing.T, n *lab.Node, ref string) string {
	t.Helper()
	all, err := n.ListImages(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Ref == ref {
			return i.ID
		}
	}
	return ""
}

// What a pod has written does not fit on the destination's disk: it runs on, and moves when there is room.
func TestADestinationWithAFullDiskLeavesThePodWhereItIs(t *testing.T) {
	a, _ := nodes(t)
	l, err := lab.Up(within(t, 5*time.Minute), lab.Options{Dir: labDir(), Names: []string{"a", "b", "c"}})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Node("c")
	explain(t, a, c)
	t.Cleanup(func() {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
	})
	resize := smallDisk(t, a, c, "48m")
	p := program(t, a, workload.Ticker, workload.Port)
	p.moveTo(c) // as it is, it fits; and leaves what the first pod of a node leaves
	p.moveTo(a)
	content := make([]byte, 60<<20)
	rand.Read(content)
	if err := os.WriteFile(p.rootfs(workload.Ticker)+"/big", content, 0o600); err != nil {
		t.Fatal(err)
	}
	before := settled(t, a, c)
	_, err = move.Do(within(t, moveTimeout), a, p.name, c.Name)
	if !errors.Is(err, move.ErrFailed) || !strings.Contains(err.Error(), "space") {
		t.Fatalf("60 MiB of files go to a disk of 48: %v", err)
	}
	t.Log(err)
	p.check(workload.Port)
	noMore(t, before, idle, a, c)
	resize("400m")
	p.moveTo(c)
	p.check(workload.Port)
	got, err := os.ReadFile(p.rootfs(workload.Ticker) + "/big")
	if err != nil || string(got) != string(content) {
		t.Errorf("the file is another on node c: %v", err)
	}
	removePodFrom(t, c, p.name)
}

// smallDisk gives a node a disk of its own for containerd, of a size that the returned function changes, with nothing on it
// but the image of sandboxes.
func smallDisk(t *testing.T, from, n *lab.Node, size string) (resize func(size string)) {
	t.Helper()
	ctx := within(t, time.Minute)
	if _, err := n.Exec(ctx, "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", "/var/lib/containerd"); err != nil {
		t.Fatal(err)
	}
	if !n.KillContainerd() {
		t.Fatal("no containerd")
	}
	awaitContainerd(t, n)
	const file = "/tmp/pause.tar"
	// Without --local ctr may end before it has written what the transfer service streams to it.
	if _, err := from.Exec(ctx, "ctr", "-n", "k8s.io", "images", "export", "--local", file, "localhost/pause:1"); err != nil {
		t.Fatal(err)
	}
	pause, err := os.ReadFile(from.Path(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.Path(file), pause, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Exec(ctx, "ctr", "-n", "k8s.io", "images", "import", "--local", file); err != nil {
		t.Fatal(err)
	}
	for _, node := range []*lab.Node{from, n} {
		if err := os.Remove(node.Path(file)); err != nil {
			t.Error(err)
		}
	}
	return func(size string) {
		if _, err := n.Exec(within(t, time.Minute), "mount", "-o", "remount,size="+size, "/var/lib/containerd"); err != nil {
			t.Fatal(err)
		}
	}
}

func removePodFrom(t *testing.T, n *lab.Node, name string) {
	t.Helper()
	p, err := n.FindPod(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.RemovePod(t.Context(), p.ID); err != nil {
		t.Error(err)
	}
}

// Once committed, nothing of the source is needed any more.
func TestThePodLivesThoughItsSourceDiesRightAfterTheCommit(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "orphan", Containers: []lab.ContainerSpec{redisContainer(t)}})
	w := startWriter(t, p, keys(100_000))
	w.awaitWrites(writeRate / 2)
	ctx := within(t, moveTimeout)
	m, err := move.Start(ctx, a, p.name, b.Name)
	if err != nil {
		t.Fatal(err)
	}
	created, err := m.Await(ctx, "created")
	if err != nil {
		t.Fatal(err)
	}
	w.redis.AlsoAt(created.Destination.PodIP + ":" + redisPort)
	if _, err := m.Await(ctx, "committed"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	killed := time.Now()
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rebuild(t) })
	t.Logf("node a was gone %v after the commit", time.Since(killed))
	w.awaitWrites(writeRate)
	w.verify()
	now, err := b.FindPod(ctx, p.name)
	if err != nil {
		t.Fatal(err)
	}
	if now.ID != created.Destination.Sandbox || now.Containers[0].State != "running" {
		t.Errorf("the pod is %+v", now)
	}
}

// rebuild brings nodes that were killed up again.
func rebuild(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(5*time.Minute))
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Dir: labDir()})
	if err != nil {
		t.Fatal(err)
	}
	_ = the.lab.Close()
	the.lab = l
	if err := warm(ctx, l); err != nil {
		t.Fatal(err)
	}
}
