package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Archive is a release of Debian that is not the nodes', for single packages of it. The machine's apt knows the way to the mirror; the lists
// are the archive's own.
type Archive struct{ dir, suite string }

// OpenArchive reads the lists of a release, such as "trixie". They and what is downloaded stay in dir, which is the caller's. Root is a file
// system of a Debian as new as the release, whose keys vouch for it: of a node, for example.
func OpenArchive(ctx context.Context, dir, suite, root string) (*Archive, error) {
	mirror, err := debianMirror(ctx)
	if err != nil {
		return nil, err
	}
	a := &Archive{dir: dir, suite: suite}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	keyring := filepath.Join(root, "usr/share/keyrings/debian-archive-keyring.gpg")
	line := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, mirror, suite)
	if err := os.WriteFile(a.sources(), []byte(line), 0o644); err != nil {
		return nil, err
	}
	_, err = a.apt(ctx, "apt-get", "update")
	return a, err
}

func (a *Archive) sources() string { return filepath.Join(a.dir, "sources.list") }

// Depends lists what apt says of a package's dependencies, a line for each.
func (a *Archive) Depends(ctx context.Context, name string) ([]string, error) {
	out, err := a.apt(ctx, "apt-cache", "depends", name)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
}

// Unpack downloads a package and unpacks its files into a directory that is made. They are not installed.
func (a *Archive) Unpack(ctx context.Context, name, to string) error {
	if _, err := a.apt(ctx, "apt-get", "download", name); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, name+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("package %s of %s: %d files came", name, a.suite, len(debs))
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "--extract", debs[0], to).CombinedOutput(); err != nil {
		return fmt.Errorf("package %s of %s: %w: %s", name, a.suite, err, tail(out))
	}
	return nil
}

func (a *Archive) apt(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{
		"-q", "-o", "Dir::Etc::sourcelist=" + a.sources(), "-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::State::Lists=" + a.dir + "/lists",
		"-o", "Dir::Cache=" + a.dir + "/cache", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Check-Valid-Until=false",
		"-o", "Acquire::Languages=none",
	}, args...)...)
	cmd.Dir = a.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("packages of %s: %s: %w: %s", a.suite, strings.Join(append([]string{program}, args...), " "), err, tail(stderr.Bytes()))
	}
	return out, nil
}
