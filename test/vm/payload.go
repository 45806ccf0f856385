package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/vm/guest"
	"godwit.dev/godwit/test/workload"
)

// Directories of the payload disk.
const (
	binDir       = "bin"       // the project's binaries, and the bench
	testsDir     = "tests"     // tests that are compiled
	workloadsDir = "workloads" // the root file system of the workloads' image
	filesDir     = "files"     // what -file names
)

// modulePath is this module's, whose packages are compiled wherever in it this runs.
const modulePath = "godwit.dev/godwit"

// payload is what a run brings along.
type payload struct {
	tree string
}

// newPayload copies the project's binaries to a directory.
func newPayload(ctx context.Context, tree string) (payload, error) {
	p := payload{tree: tree}
	bin, err := lab.FindBin()
	if err != nil {
		return p, err
	}
	if _, err := os.Stat(filepath.Join(bin, "godwit-node")); err != nil {
		return p, fmt.Errorf("the project's binaries: %w; run make build", err)
	}
	if err := os.MkdirAll(p.path(binDir), 0o755); err != nil {
		return p, err
	}
	return p, p.add(ctx, bin+"/.", binDir)
}

func (p payload) path(name string) string { return filepath.Join(p.tree, name) }

// add copies a file or a directory into one of the payload.
func (p payload) add(ctx context.Context, from, dir string) error {
	if err := os.MkdirAll(p.path(dir), 0o755); err != nil {
		return err
	}
	_, err := output(exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", from, p.path(dir)))
	return err
}

// build compiles a main package, or with test the tests of one, without any library of this machine.
func (p payload) build(ctx context.Context, test bool, pkg, name string) error {
	args := []string{"build", "-trimpath"}
	if test {
		args = []string{"test", "-c"}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", p.path(name), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	_, err := output(cmd)
	return err
}

// workloads compiles the programs of the workloads' image: inside there is no compiler.
func (p payload) workloads(ctx context.Context) error {
	if err := os.MkdirAll(p.path(workloadsDir), 0o755); err != nil {
		return err
	}
	return workload.Build(ctx, p.path(workloadsDir))
}

// inCopy runs a command in a copy of a directory: tests write to where they are.
const inCopy = `dir=$(mktemp -d) && cp -r "$1/." "$dir" && cd "$dir" && shift && exec "$@"`

// unitTests compiles the tests of the packages that the options name, and returns the steps that run them, each in a copy of its package's directory,
// as go test would.
func (p payload) unitTests(ctx context.Context, o options) ([]guest.Step, error) {
	run := o.testRun
	if run == "" && !o.e2e {
		run = o.run
	}
	list := exec.CommandContext(ctx, "go", append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}"}, o.tests...)...)
	out, err := output(list)
	if err != nil {
		return nil, err
	}
	var steps []guest.Step
	for line := range strings.Lines(string(out)) {
		pkg, dir, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		name := strings.ReplaceAll(pkg, "/", "_")
		if err := p.build(ctx, true, pkg, path.Join(testsDir, name+".test")); err != nil {
			return nil, err
		}
		if err := p.testdata(ctx, dir, path.Join(testsDir, name)); err != nil {
			return nil, err
		}
		in := path.Join(guest.Payload, testsDir, name)
		steps = append(steps, guest.Step{
			Name: pkg, Args: append([]string{"/bin/sh", "-c", inCopy, "sh", in, in + ".test"}, testFlags(o, run)...),
		})
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("%s: no tests", o.tests.String())
	}
	return steps, nil
}

// testdata brings along what a package's tests read.
func (p payload) testdata(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(p.path(to), 0o755); err != nil {
		return err
	}
	data := filepath.Join(from, "testdata")
	if _, err := os.Stat(data); err != nil {
		return nil
	}
	return p.add(ctx, data, to)
}

// disk makes the image, with as much room as it takes and some.
func (p payload) disk(ctx context.Context, image string) error {
	size := int64(64 << 20)
	err := filepath.WalkDir(p.tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size() + info.Size()/16 + 4096
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("payload disk: %w", err)
	}
	if err := makeDisk(ctx, p.tree, image, fmt.Sprintf("%dK", size>>10)); err != nil {
		return fmt.Errorf("payload disk: %w", err)
	}
	return nil
}
