package criu

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheDirectoryOfAKilledRestoreIsRemoved(t *testing.T) {
	const own = "/tmp/.criu.mntns.gdwTst"
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	work := t.TempDir()
	r := &Restore{config: RestoreConfig{Work: work}}
	r.ClearRoots() // without a log
	log := "(00.1)      1: mnt: Move the root to " + own + "\n(00.2) mnt-v2: Create plain mountpoint " + own + "/mnt-0000000176\n"
	if err := os.WriteFile(filepath.Join(work, restoreLog), []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(own, "in-use")
	if err := os.WriteFile(full, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.ClearRoots()
	if _, err := os.Stat(full); err != nil {
		t.Errorf("a directory that is not empty: %v", err)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	r.ClearRoots()
	if _, err := os.Stat(own); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}
