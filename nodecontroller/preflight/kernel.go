package preflight

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/store"
)

func kernelRelease(context.Context, *Node) []Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return missing("kernel", err.Error(), "")
	}
	return ok("kernel", unix.ByteSliceToString(u.Release[:]))
}

const withoutTracking = "Without it pods are moved cold (stop and copy)."

func pagemapScan(context.Context, *Node) []Finding {
	const feature = "kernel PAGEMAP_SCAN"
	if err := pagemap.ProbeScan(); err != nil {
		return warning(feature, err.Error(), "Run Linux 6.7 or later. "+withoutTracking)
	}
	return ok(feature, "finds written pages without stopping the pod")
}

func writeProtect(context.Context, *Node) []Finding {
	const feature = "kernel userfaultfd write-protection"
	if err := pagemap.ProbeWPAsync(); err != nil {
		return warning(feature, err.Error(), "Run Linux 6.7 or later with CONFIG_USERFAULTFD. "+withoutTracking)
	}
	return ok(feature, "asynchronous: the pod never waits for the tracker")
}

func guardRegions(context.Context, *Node) []Finding {
	const feature = "kernel guard regions in PAGEMAP_SCAN"
	if err := pagemap.ProbeGuard(); err != nil {
		return warning(feature, err.Error(), "")
	}
	return ok(feature, "told apart from memory")
}

// tmpfs makes a store like a migration's.
func tmpfs(_ context.Context, n *Node) []Finding {
	const feature = "store on tmpfs"
	dir, err := os.MkdirTemp(n.StateDir, "check-")
	if err != nil {
		return missing(feature, err.Error(), "state_dir must be writable.")
	}
	defer os.RemoveAll(dir)
	s, err := store.Create(filepath.Join(dir, "store"), store.Options{Limit: 1 << 20})
	if err != nil {
		return missing(feature, err.Error(), "The daemon needs CAP_SYS_ADMIN, and a kernel with tmpfs.")
	}
	if err := s.Remove(); err != nil {
		return missing(feature, err.Error(), "")
	}
	return ok(feature, "can be mounted below "+n.StateDir)
}
