package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestAPathOfAContainerIsFoundOnTheNode(t *testing.T) {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/data", Type: "bind", Source: "/volumes/data"},
		{Destination: "/data/inner/", Type: "bind", Source: "/volumes/inner"},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
	}
	for name, want := range map[string][2]string{
		"/work/f":       {"/root", "/work/f"},
		"/data/f":       {"/volumes/data", "/f"},
		"/data/a/f":     {"/volumes/data", "/a/f"},
		"/data/inner/f": {"/volumes/inner", "/f"},
		"/database/f":   {"/root", "/database/f"},
		"/data":         {"/root", "/data"},
	} {
		if root, below := onHost(mounts, "/root", name); root != want[0] || below != want[1] {
			t.Errorf("%s: %s in %s, want %v", name, below, root, want)
		}
	}
}

func TestANameThatARestoreRemovedIsGivenAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving an open file a name takes root")
	}
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(root, "work"), 0o700))
	kept, name := filepath.Join(root, "work/other"), filepath.Join(root, "work/link_remap.1")
	must(os.WriteFile(kept, []byte("content"), 0o600))
	must(os.Link(kept, name))
	k, err := keepName(root, "/work/link_remap.1")
	must(err)
	defer closeNames([]keptName{k})
	must(k.again()) // it is there still
	must(os.Remove(name))
	must(k.again())
	if b, err := os.ReadFile(name); err != nil || string(b) != "content" {
		t.Errorf("it has %q, %v", b, err)
	}
}

func TestNamesAreNotFollowedOutOfTheContainer(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "link_remap.1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "work")); err != nil {
		t.Fatal(err)
	}
	if _, err := keepName(root, "/work/link_remap.1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
