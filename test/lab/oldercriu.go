package lab

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// EnvCRIU names the older CRIU that a run of the end-to-end tests has its nodes use, such as "3.17": so that the same tests run with each.
const EnvCRIU = "GODWIT_E2E_CRIU"

// CRIURelease is a former release of CRIU, as a release of Debian has it.
type CRIURelease struct {
	suite string
	// Version is how its own account of it begins.
	Version string
}

var (
	// FormerCRIU is of the minor release before the nodes': its page-server messages have another layout.
	FormerCRIU = CRIURelease{suite: "trixie", Version: "4.1"}
	// OldestCRIU calls no action scripts for a client that it notifies. It does not know the vDSO of kernels of today: it runs on those of
	// its time.
	OldestCRIU = CRIURelease{suite: "bookworm", Version: "3.17"}
)

// CRIUReleases are those.
var CRIUReleases = []CRIURelease{FormerCRIU, OldestCRIU}

// FindCRIU returns the release that has a version, such as "3.17".
func FindCRIU(version string) (CRIURelease, error) {
	var known []string
	for _, r := range CRIUReleases {
		if r.Version == version {
			return r, nil
		}
		known = append(known, r.Version)
	}
	return CRIURelease{}, fmt.Errorf("CRIU %q: there is %s", version, strings.Join(known, " and "))
}

// criuLibrary is what both need and the nodes lack: 4.2 does without.
const criuLibrary = "libnet1"

// OlderCRIU returns a directory in the cache with a release: the program, criu, which runs on a node, and the libraries that it needs besides
// the node's, lib*. It is fetched if it is not there. Setup has run before.
func OlderCRIU(ctx context.Context, o Options, r CRIURelease) (dir string, err error) {
	lo, err := newLayout(o.Dir)
	if err != nil {
		return "", err
	}
	l := &Lab{layout: lo, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l.olderCRIU(ctx, r)
}

func (l *Lab) olderCRIU(ctx context.Context, r CRIURelease) (string, error) {
	dir := filepath.Join(l.cache, "criu-"+r.suite)
	root, err := l.nodeRoot(ctx)
	if err != nil {
		return "", err
	}
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "criu"))
	if err != nil {
		return "", err
	}
	defer release()
	if isDir(dir) {
		return dir, nil
	}
	l.log.Info("fetching an older CRIU, once", "suite", r.suite)
	return dir, atomicDir(dir, func(tmp string) error { return r.unpack(ctx, tmp, root) })
}

// unpack fills a directory with the program and its libraries.
func (r CRIURelease) unpack(ctx context.Context, dir, root string) error {
	work := filepath.Join(dir, "work")
	a, err := OpenArchive(ctx, work, r.suite, root)
	if err != nil {
		return err
	}
	unpacked := filepath.Join(work, "unpacked")
	for _, name := range []string{"criu", criuLibrary} {
		if err := a.Unpack(ctx, name, unpacked); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(unpacked, "usr/lib/*/libnet.so.*"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("package %s of %s has no library", criuLibrary, r.suite)
	}
	for _, f := range append(files, filepath.Join(unpacked, "usr/sbin/criu")) {
		if err := os.Rename(f, filepath.Join(dir, filepath.Base(f))); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}
