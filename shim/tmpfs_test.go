package shim

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/shim/criu"
	"godwit.dev/godwit/shim/tmpfs"
)

// testMounts are mounts that are to be at paths.
func testMounts(t *testing.T, paths ...string) []arrivingTmpfs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to mount")
	}
	var out []arrivingTmpfs
	for _, at := range paths {
		target, err := tmpfs.Mount{Path: "/dev"}.Make()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { target.File().Close() })
		out = append(out, arrivingTmpfs{target, at})
	}
	return out
}

func TestBothEndsGiveAMountTheSameName(t *testing.T) {
	d := &departure{tmpfs: []*tmpfs.Source{nil, {Mount: tmpfs.Mount{Path: "/dev"}}}}
	left := d.external()
	if len(left) != 1 || left[0] != (criu.External{Key: "/dev", Value: tmpfsName(1)}) {
		t.Fatalf("CRIU leaves out %v", left)
	}
	there := externalAt([]arrivingTmpfs{{at: "/at/0"}, {at: "/at/1"}})
	if len(there) != 2 || there[1] != (criu.External{Key: left[0].Value, Value: "/at/1"}) {
		t.Errorf("CRIU binds %v", there)
	}
}

func TestAMountThatTheImagesNameHasToHaveCome(t *testing.T) {
	images := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(images, "mountpoints-12.img"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := newAttempt(1, nil)
	a.tmpfs = testMounts(t, "/at/0", "/at/1")
	defer a.release()
	write("some mounts")
	if err := a.fillTmpfs(images); err != nil {
		t.Errorf("of mounts that CRIU has dumped: %v", err)
	}
	write("a mount by name of " + tmpfsName(1))
	if err := a.fillTmpfs(images); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its records: %v", err)
	}
	if err := os.WriteFile(tmpfsRecords(images, 1), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.fillTmpfs(images); err != nil {
		t.Errorf("with its records: %v", err)
	}
}

func TestOnlyADestinationThatFillsMountsIsLeftThem(t *testing.T) {
	s := &source{log: slog.New(slog.DiscardHandler)}
	c := &departure{container: &container{id: "c1"}, pid: os.Getpid(), own: []tmpfs.Mount{{Path: "/dev"}}}
	s.openTmpfs(c)
	if c.tmpfs != nil || len(c.external()) != 0 {
		t.Errorf("CRIU leaves out %v", c.external())
	}
	d := &destination{log: s.log}
	a := newArrival()
	a.container = c.container
	for list, want := range map[string]bool{"": false, "{": false, `[{"path":"/dev","options":["mpol=bind:0"]}]`: false, "[]": true} {
		if got := d.expectTmpfs(a, list); got != want || len(a.own) != 0 {
			t.Errorf("%q: filled is %v, %d mounts", list, got, len(a.own))
		}
	}
}
