package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/cgroups/v3"
)

// inCgroup has this process be in a cgroup until the test ends.
func inCgroup(t *testing.T, f *freezer) {
	t.Helper()
	before, err := cgroupPath(os.Getpid(), f.unified)
	if err != nil {
		t.Fatal(err)
	}
	join := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	join(f.dir)
	t.Cleanup(func() { join(freezerDir(before, f.unified)) })
}

func TestFreezerThatHoldsTheShimItselfIsRefused(t *testing.T) {
	version := map[bool]string{false: "v1", true: "v2"}[cgroups.Mode() == cgroups.Unified]
	made := freezers(t)[version]
	if made == nil {
		t.Skipf("no cgroup of %s can be made", version)
	}
	inCgroup(t, made)
	own, err := openFreezer(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if own.dir != made.dir {
		t.Fatalf("found in %s, not in %s", own.dir, made.dir)
	}
	for dir, held := range map[string]bool{
		own.dir:                       true,
		filepath.Dir(own.dir):         true,
		filepath.Join(own.dir, "pod"): false,
		own.dir + "-other":            false,
	} {
		err := (&freezer{dir: dir, unified: own.unified}).sparesSelf()
		if errors.Is(err, errFreezesShim) != held {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
