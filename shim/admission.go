package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// errUnknownMigration refuses a container that claims to be a destination.
var errUnknownMigration = errors.New("no such migration is expected on this node")

// admit checks that the node daemon expects the migration that a container's
// annotation names, and returns what it says of it. Annotations come from whoever
// may create pods.
func admit(dir string, c *container) (shimv1.Admission, error) {
	if !migrationID.MatchString(c.migration) {
		return shimv1.Admission{}, fmt.Errorf("container %s: malformed migration id in annotation", c.id)
	}
	a, err := readAdmission(filepath.Join(dir, c.migration+".json"))
	if err == nil && a.Closed {
		err = errUnknownMigration
	}
	if err != nil {
		return a, fmt.Errorf("container %s, migration %s: %w", c.id, c.migration, err)
	}
	return a, nil
}

// readAdmission reads a regular file, never a link, of a bounded size.
func readAdmission(path string) (shimv1.Admission, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return shimv1.Admission{}, errUnknownMigration
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return shimv1.Admission{}, errUnknownMigration
	}
	b, err := io.ReadAll(io.LimitReader(f, shimv1.MaxAdmission+1))
	if err != nil {
		return shimv1.Admission{}, fmt.Errorf("admission: %w", err)
	}
	return shimv1.DecodeAdmission(b)
}
