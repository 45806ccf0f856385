package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/criuversion"
)

func criuVersion(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU"
	v, err := criuversion.Installed(ctx, nil)
	if err != nil {
		return missing(feature, err.Error(), fmt.Sprintf("Install CRIU %v to %v (package criu) where containerd's PATH has it.", criuversion.Oldest, criuversion.Newest))
	}
	return criuFinding(feature, v, newness{credentialsRestricted(), clockPagesApart()})
}

// newness is what a kernel has that CRIU has to know of.
type newness struct {
	// restricted: sockets that carry no credentials refuse to be asked for them.
	restricted bool
	// clocks: the clock data of virtual machines is an area of its own.
	clocks bool
}

// clockPagesApart says whether the kernel is one from 6.13 on (arch/x86/entry/vdso/vma.c, vvar_vclock_mapping).
func clockPagesApart() bool {
	maps, err := os.ReadFile("/proc/self/maps")
	return err == nil && bytes.Contains(maps, []byte("[vvar_vclock]"))
}

// credentialsRestricted says whether the kernel refuses SO_PASSCRED to sockets that carry no credentials, as from 6.16 on
// (net/core/sock.c, sk_getsockopt).
func credentialsRestricted() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
	return errors.Is(err, unix.EOPNOTSUPP)
}

// criuFinding judges a version on a kernel.
func criuFinding(feature string, v criuversion.Version, kernel newness) []Finding {
	err := v.Supported()
	switch {
	case errors.Is(err, criuversion.ErrTooOld):
		return missing(feature, v.String()+" is too old", fmt.Sprintf("Install CRIU %v or later, best %v.", criuversion.Oldest, criuversion.Newest))
	case err != nil:
		return warning(feature, fmt.Sprintf("%v is newer than what this Godwit was made for, %v to %v", v, criuversion.Oldest, criuversion.Newest),
			"Try it first with a pod that may be lost.")
	case kernel.clocks && !v.KnowsClockPages():
		return missing(feature, fmt.Sprintf("%v does not know the vDSO of this kernel: from Linux 6.13 on it takes CRIU 4.1", v), "Install CRIU 4.2 or later.")
	case kernel.restricted && v.AsksEverySocket():
		return missing(feature, fmt.Sprintf("%v cannot dump the network sockets of this kernel: from Linux 6.16 on it takes CRIU 4.2", v), "Install CRIU 4.2 or later.")
	}
	return ok(feature, fmt.Sprintf("%v; page-server messages of %d bytes; restores what CRIU %v and older dump", v, v.PageServerMessage(), v))
}

func criuCheck(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU on this kernel"
	if _, err := run(ctx, "criu", "check"); err != nil {
		return missing(feature, err.Error(), "Run `criu check` as root: it says which kernel option is missing.")
	}
	return ok(feature, "criu check passes")
}

func criuLazy(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU lazy restore"
	for _, f := range []string{"uffd", "uffd-noncoop"} {
		if _, err := run(ctx, "criu", "check", "--feature", f); err != nil {
			return missing(feature, fmt.Sprintf("feature %s: %v", f, err), "The kernel needs CONFIG_USERFAULTFD, and root must be allowed to use it.")
		}
	}
	return ok(feature, "uffd, uffd-noncoop: the pod runs before all its memory is in")
}

// criuDirtyTracking is CRIU's own answer to what softDirty asks of the kernel.
func criuDirtyTracking(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU mem_dirty_track"
	if _, err := run(ctx, "criu", "check", "--feature", "mem_dirty_track"); err != nil {
		return ok(feature, "not there: tracker SoftDirty cannot work, the others do not need it")
	}
	return ok(feature, "there: CRIU can make the rounds of tracker SoftDirty")
}
