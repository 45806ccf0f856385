package preflight

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/store"
	"godwit.dev/godwit/pagestream/track"
)

func kernelRelease(context.Context, *Node) []Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return missing("kernel", err.Error(), "")
	}
	return ok("kernel", unix.ByteSliceToString(u.Release[:]))
}

func pagemapScan(context.Context, *Node) []Finding {
	return trackerNeeds("kernel PAGEMAP_SCAN", "tracker WriteProtect finds written pages by it, without stopping the pod", pagemap.ProbeScan())
}

func writeProtect(context.Context, *Node) []Finding {
	return trackerNeeds("kernel userfaultfd write-protection", "tracker WriteProtect has writes noted by it, asynchronously: the pod never waits", pagemap.ProbeWPAsync())
}

func softDirty(context.Context, *Node) []Finding {
	return trackerNeeds("kernel soft-dirty bits", "tracker SoftDirty, CRIU's rounds, finds written pages by them", pagemap.ProbeSoftDirty())
}

// trackerNeeds is a finding about something that one tracker needs: whether
// another takes its place is told by tracker.
func trackerNeeds(feature, what string, err error) []Finding {
	if err != nil {
		return ok(feature, "not there: "+err.Error())
	}
	return ok(feature, what)
}

// tracker says which engine Auto takes here, and why.
func tracker(ctx context.Context, _ *Node) []Finding {
	return trackerFinding(track.Probe(ctx, nil))
}

func trackerFinding(f track.Features) []Finding {
	const feature = "tracker that auto takes"
	e, why, err := track.Choose(track.Auto, f)
	switch {
	case err != nil:
		return missing(feature, err.Error(), "")
	case e == track.None:
		return warning(feature, fmt.Sprintf("%v: %s", e, why),
			"Run Linux 6.7 or later with CONFIG_USERFAULTFD, or one with CONFIG_MEM_SOFT_DIRTY: pods are frozen while all their memory is copied, otherwise.")
	}
	return ok(feature, fmt.Sprintf("%v: %s", e, why))
}

func guardRegions(context.Context, *Node) []Finding {
	return guardFinding(pagemap.HaveGuards(), pagemap.ProbeGuard())
}

// guardFinding judges a kernel that has guard regions or not, and tells them or not.
func guardFinding(have bool, untold error) []Finding {
	const feature = "kernel guard regions in PAGEMAP_SCAN"
	switch {
	case !have:
		return ok(feature, "none to tell: no program can make them before Linux 6.13")
	case untold != nil:
		return warning(feature, untold.Error(), "")
	}
	return ok(feature, "told apart from memory: they are found with the pages of a frozen pod, and CRIU is spared a walk of its own if it would do one")
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
