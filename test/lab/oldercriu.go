package lab

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// olderSuite is the newest Debian release whose CRIU is of a former minor release (4.1) and runs on kernels of today: that of the release
// before, 3.17, does not know their vDSO.
const olderSuite = "trixie"

// criuLibrary is what that CRIU needs and the nodes lack: 4.2 does without.
const criuLibrary = "libnet1"

// OlderCRIU returns a directory in the cache with a CRIU of a former minor release than the nodes', whose page-server messages have the other
// layout: the program, criu, which runs on a node, and the libraries that it needs besides the node's, lib*. It is fetched if it is not
// there. Setup has run before.
func OlderCRIU(ctx context.Context, o Options) (dir string, err error) {
	lo, err := newLayout(o.Dir)
	if err != nil {
		return "", err
	}
	l := &Lab{layout: lo, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l.olderCRIU(ctx)
}

func (l *Lab) olderCRIU(ctx context.Context) (string, error) {
	dir := filepath.Join(l.cache, "criu-"+olderSuite)
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
	l.log.Info("fetching an older CRIU, once", "suite", olderSuite)
	return dir, atomicDir(dir, func(tmp string) error { return unpackCRIU(ctx, tmp, root) })
}

// unpackCRIU fills a directory with the program and its libraries.
func unpackCRIU(ctx context.Context, dir, root string) error {
	work := filepath.Join(dir, "work")
	a, err := OpenArchive(ctx, work, olderSuite, root)
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
		return fmt.Errorf("package %s of %s has no library", criuLibrary, olderSuite)
	}
	for _, f := range append(files, filepath.Join(unpacked, "usr/sbin/criu")) {
		if err := os.Rename(f, filepath.Join(dir, filepath.Base(f))); err != nil {
			return err
		}
	}
	return os.RemoveAll(work)
}
