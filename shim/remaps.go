package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/shim/criu"
)

// A file that a process has open under a deleted name, and that has another name
// somewhere, came here under a name that CRIU gave it. A restore removes that name when
// it has opened the file, and the next one needs it again.

// keptName is such a name.
type keptName struct {
	dir, file int
	name      string
}

// keepNames opens what a restore will remove the names of. It returns what it could
// open, also with an error.
func keepNames(c *container, images string) (kept []keptName, err error) {
	names, err := criu.LinkRemaps(images)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	mounts, err := readMounts(c.bundle)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		root, below := onHost(mounts, c.rootfs(), name)
		k, kerr := keepName(root, below)
		if kerr != nil {
			err = errors.Join(err, fmt.Errorf("name of a deleted file %s: %w", name, kerr))
			continue
		}
		kept = append(kept, k)
	}
	return kept, err
}

// readMounts reads what is mounted into a container.
func readMounts(bundle string) ([]specs.Mount, error) {
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read OCI specification: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("decode OCI specification: %w", err)
	}
	return spec.Mounts, nil
}

// onHost is where a container's path is in the node's mount namespace: below the root
// file system, or below what is bound over it. Later mounts lie over earlier ones.
func onHost(mounts []specs.Mount, rootfs, name string) (root, below string) {
	root, below = rootfs, name
	for _, m := range mounts {
		at := path.Clean(m.Destination)
		if m.Type != "bind" || at != "/" && !strings.HasPrefix(name, at+"/") {
			continue
		}
		root, below = m.Source, strings.TrimPrefix(name, strings.TrimSuffix(at, "/"))
	}
	return root, below
}

// keepName opens a name below a directory whose content is not to be trusted.
func keepName(root, below string) (keptName, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return keptName{}, err
	}
	defer unix.Close(at)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	dir, err := unix.Openat2(at, path.Dir(below), &how)
	if err != nil {
		return keptName{}, err
	}
	name := path.Base(below)
	file, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(dir)
		return keptName{}, err
	}
	return keptName{dir, file, name}, nil
}

// again gives the file its name if it has not got it any more.
func (k keptName) again() error {
	err := unix.Linkat(k.file, "", k.dir, k.name, unix.AT_EMPTY_PATH)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("name %s of a deleted file: %w", k.name, err)
	}
	return nil
}

// closeNames lets go of names that will not be needed again.
func closeNames(kept []keptName) {
	for _, k := range kept {
		unix.Close(k.file)
		unix.Close(k.dir)
	}
}
