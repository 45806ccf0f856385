package shim

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// `runc delete` removes a state directory with what is below it.
func TestWhatAKilledRestoreHasBoundIsNotRemovedWithItsState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	rootfs, runcRoot := t.TempDir(), t.TempDir()
	program := filepath.Join(rootfs, "program")
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	root := restoreRoot(runcRoot, "c")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a restore that was killed, and one more
		if err := unix.Mount(rootfs, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			t.Skip(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	}
	if err := unmountRestoreRoot(runcRoot, "c"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(runcRoot, "c")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Errorf("the container's program is gone: %v", err)
	}
	if err := clearRestoreRoot(runcRoot, "c"); err != nil {
		t.Errorf("of a container without state: %v", err)
	}
}
