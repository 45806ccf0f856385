package filetree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// containerd unmounts a root file system when a start fails, whoever still has it open.
func TestATreeThatIsOpenCanBeUnmounted(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := NewApplier(dir, ApplyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Errorf("unmount while the tree is open: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
