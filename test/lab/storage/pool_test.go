package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const testSize = 8 << 20

// newPool has a disk and a share.
func newPool(t *testing.T) Pool {
	t.Helper()
	if _, err := exec.LookPath("mke2fs"); err != nil {
		t.Skip("no mke2fs here")
	}
	p := Open(filepath.Join(t.TempDir(), "pool"))
	for name, kind := range map[string]Kind{"disk": Disk, "share": Share} {
		if err := p.Create(t.Context(), name, kind, testSize); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestADiskIsAttachedToOneNodeAndAShareToAny(t *testing.T) {
	p := newPool(t)
	for _, step := range []struct {
		volume string
		change func(context.Context, string, string) error
		node   string
		want   error
		nodes  []string
	}{
		{"disk", p.Attach, "a", nil, []string{"a"}},
		{"disk", p.Attach, "a", nil, []string{"a"}},
		{"disk", p.Attach, "b", ErrAttachedElsewhere, []string{"a"}},
		{"disk", p.Detach, "b", nil, []string{"a"}},
		{"disk", p.Detach, "a", nil, nil},
		{"disk", p.Detach, "a", nil, nil},
		{"disk", p.Attach, "b", nil, []string{"b"}},
		{"share", p.Attach, "a", nil, []string{"a"}},
		{"share", p.Attach, "b", nil, []string{"a", "b"}},
		{"share", p.Detach, "a", nil, []string{"b"}},
		{"none", p.Attach, "a", ErrNoVolume, nil},
		{"../disk", p.Attach, "a", ErrNoVolume, nil},
	} {
		if err := step.change(t.Context(), step.volume, step.node); !errors.Is(err, step.want) {
			t.Errorf("%s, node %s: %v, want %v", step.volume, step.node, err, step.want)
		}
		if nodes, err := p.Attachments(step.volume); !slices.Equal(nodes, step.nodes) || (err != nil) != (step.want == ErrNoVolume) {
			t.Errorf("%s is attached to %v (%v), want %v", step.volume, nodes, err, step.nodes)
		}
	}
}

func TestAVolumeThatIsAttachedIsNotRemoved(t *testing.T) {
	p := newPool(t)
	for _, volume := range []string{"disk", "share"} {
		if err := p.Create(t.Context(), volume, Disk, testSize); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s is made a second time: %v", volume, err)
		}
		if err := p.Attach(t.Context(), volume, "a"); err != nil {
			t.Fatal(err)
		}
		if err := p.Remove(t.Context(), volume); err == nil {
			t.Errorf("%s is removed while it is attached", volume)
		}
		if err := p.Detach(t.Context(), volume, "a"); err != nil {
			t.Fatal(err)
		}
		if err := p.Remove(t.Context(), volume); err != nil {
			t.Error(err)
		}
		if err := p.Remove(t.Context(), volume); !errors.Is(err, ErrNoVolume) {
			t.Errorf("%s is removed twice: %v", volume, err)
		}
	}
	if left, err := os.ReadDir(p.dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// newMounts skips where nothing can be mounted; mount points are gone when the test ends.
func newMounts(t *testing.T) func(name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("no loop devices here")
	}
	dir := t.TempDir()
	return func(name string) string {
		target := filepath.Join(dir, name)
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
		return target
	}
}

func TestADiskIsMountedOnceAndKeepsItsContent(t *testing.T) {
	p, at := newPool(t), newMounts(t)
	ctx := t.Context()
	first, pod, second := at("first"), at("pod"), at("second")
	if err := p.stage(ctx, "disk", "a", first); !errors.Is(err, ErrNotAttached) {
		t.Fatalf("mounted without being attached: %v", err)
	}
	if err := p.Attach(ctx, "disk", "a"); err != nil {
		t.Fatal(err)
	}
	if err := publish(first, pod, false); err == nil {
		t.Fatal("a pod gets a directory with no volume mounted on it")
	}
	for range 2 { // kubelet may ask again
		if err := p.stage(ctx, "disk", "a", first); err != nil {
			t.Fatal(err)
		}
		if err := publish(first, pod, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(pod, "word"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := p.stage(ctx, "disk", "a", second); !errors.Is(err, ErrMounted) {
		t.Errorf("mounted a second time: %v", err)
	}
	if err := p.Detach(ctx, "disk", "a"); !errors.Is(err, ErrMounted) {
		t.Errorf("detached while it is mounted: %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.unstage(done, "disk", first); !errors.Is(err, ErrMounted) {
		t.Errorf("said to be unmounted while a pod has it: %v", err)
	}
	for range 2 {
		if err := unpublish(pod); err != nil {
			t.Fatal(err)
		}
		if err := p.unstage(ctx, "disk", first); err != nil {
			t.Fatal(err)
		}
		if err := p.Detach(ctx, "disk", "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Attach(ctx, "disk", "b"); err != nil {
		t.Fatal(err)
	}
	if err := p.stage(ctx, "disk", "b", second); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(second, "word")); err != nil || string(got) != "kept" {
		t.Errorf("the disk has %q, %v", got, err)
	}
	if err := p.unstage(ctx, "disk", second); err != nil {
		t.Error(err)
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestAShareIsTheSameOnAllNodes(t *testing.T) {
	p, at := newPool(t), newMounts(t)
	ctx := t.Context()
	pods := map[string]string{}
	for _, node := range []string{"a", "b"} {
		staging, pod := at("staging-"+node), at("pod-"+node)
		if err := p.Attach(ctx, "share", node); err != nil {
			t.Fatal(err)
		}
		if err := p.stage(ctx, "share", node, staging); err != nil {
			t.Fatal(err)
		}
		if err := publish(staging, pod, node == "b"); err != nil {
			t.Fatal(err)
		}
		pods[node] = pod
	}
	if err := os.WriteFile(filepath.Join(pods["a"], "word"), []byte("seen"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(pods["b"], "word")); err != nil || string(got) != "seen" {
		t.Errorf("the other node sees %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(pods["b"], "word"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("a pod that asked for reading only writes: %v", err)
	}
}
