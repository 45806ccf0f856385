package filetree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSkippedPathsAreLeftAlone(t *testing.T) {
	from := t.TempDir()
	c := newCopier(t, from, Plain, from, t.TempDir(), Options{Skip: []string{"/proc", "a/b/"}})
	must(t, os.MkdirAll(c.path("a/b/c"), 0o755))
	must(t, os.MkdirAll(c.path("proc/1"), 0o755))
	c.write("a/file", "x")
	must(t, os.MkdirAll(filepath.Join(c.to, "proc/2"), 0o755))
	c.sync()
	must(t, os.RemoveAll(c.path("proc")))
	c.frozen()
	if _, err := os.Stat(filepath.Join(c.to, "proc/2")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.to, "a/file")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.to, "a/b")); !os.IsNotExist(err) {
		t.Errorf("skipped directory was copied: %v", err)
	}
}

func TestACancelledOrFailedSyncBreaksTheSource(t *testing.T) {
	refused := errors.New("refused")
	for name, emit := range map[string]func(context.CancelFunc) error{
		"cancelled": func(cancel context.CancelFunc) error { cancel(); return nil },
		"failed":    func(context.CancelFunc) error { return refused },
	} {
		t.Run(name, func(t *testing.T) {
			c := plainCopier(t, Options{})
			for _, n := range []string{"a", "b", "c"} {
				must(t, os.WriteFile(c.path(n), randomBytes(8<<20), 0o644))
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			_, err := c.src.Sync(ctx, func(Record) error { return emit(cancel) })
			if !errors.Is(err, refused) && !errors.Is(err, context.Canceled) {
				t.Fatalf("error %v", err)
			}
			if _, err := c.src.Sync(context.Background(), c.apply); !errors.Is(err, ErrBroken) {
				t.Errorf("then %v, want ErrBroken", err)
			}
		})
	}
}

func TestAFrozenSyncRefusesATreeThatIsWrittenTo(t *testing.T) {
	c := plainCopier(t, Options{})
	must(t, os.WriteFile(c.path("f"), randomBytes(32<<20), 0o644))
	_, err := c.src.SyncFrozen(context.Background(), Mapped{}, func(r Record) error {
		if r.Type == TypeData && r.Offset == 0 {
			return os.Truncate(c.path("f"), 1<<20)
		}
		return nil
	})
	if !errors.Is(err, ErrNotFrozen) {
		t.Errorf("error %v, want ErrNotFrozen", err)
	}
}

func TestNamesMadeWhileFrozenAreSentByAnotherFrozenSync(t *testing.T) {
	c := overlayCopier(t, image(t), Options{})
	must(t, os.WriteFile(c.path("data"), randomBytes(1<<20), 0o644))
	must(t, os.Link(c.path("data"), c.path("other")))
	settle()
	c.frozen()
	must(t, os.Link(c.path("data"), c.path("home/link_remap.7")))
	must(t, os.Remove(c.path("data")))
	c.frozen()
	if c.bytes != 0 {
		t.Errorf("%d bytes sent of a file that did not change", c.bytes)
	}
	c.equal()
}

func TestWhatIsMountedBelowTheRootIsNotPartOfTheTree(t *testing.T) {
	needOverlay(t)
	root := t.TempDir()
	mnt := filepath.Join(root, "a/mnt")
	must(t, os.MkdirAll(mnt, 0o755))
	must(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(mnt, unix.MNT_DETACH)) }()
	must(t, os.WriteFile(filepath.Join(mnt, "inside"), nil, 0o644))
	src, err := NewSource(root, Plain, Options{})
	must(t, err)
	for range 2 {
		_, err = src.SyncFrozen(context.Background(), Mapped{}, func(r Record) error {
			if strings.HasPrefix(r.Path, "a/mnt") {
				t.Errorf("%v %s", r.Type, r.Path)
			}
			return nil
		})
		must(t, err)
	}
	must(t, src.Close())
}
