package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// moduleProgram is a program of somebody else's that is built from the module in test/lab/programs, which names its version. One
// module has them all: what two of them need is then compiled once.
type moduleProgram struct {
	// name is that of its binary, and of its builds' directory in the cache; pkg is its package.
	name, pkg string
}

// moduleProgram is the directory in the cache with the program in it, built the first time.
func (l *Lab) moduleProgram(ctx context.Context, p moduleProgram) (dir string, err error) {
	kubernetes, err := kubernetesSource(l.bin)
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.name, err)
	}
	source := filepath.Join(filepath.Dir(kubernetes), "programs")
	sum := sha256.New()
	fmt.Fprintln(sum, fastBuild, p.pkg)
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("source of %s: %w", p.name, err)
		}
		sum.Write(b)
	}
	dir = filepath.Join(l.cache, p.name, hex.EncodeToString(sum.Sum(nil)[:6]))
	release, err := flock(ctx, filepath.Join(l.cache, "locks", p.name))
	if err != nil {
		return "", err
	}
	defer release()
	if isDir(dir) {
		return dir, nil
	}
	l.log.Info("building a program, once", "program", p.name)
	err = atomicDir(dir, func(tmp string) error {
		return goBuild(ctx, source, "-ldflags=-s -w", "-o", filepath.Join(tmp, p.name), p.pkg)
	})
	if err != nil {
		return "", fmt.Errorf("build %s: %w", p.name, err)
	}
	return dir, nil
}

// fastBuild has go build compile quickly what is compiled once and used by tests alone: nobody debugs it, and calls that are not
// inlined take a third off the compiler's time. The standard library is taken as every build has it.
var fastBuild = []string{"-trimpath", "-gcflags=all=-dwarf=false -l", "-gcflags=std="}

// goBuild builds in a module of its own, with the settings of fastBuild and args.
func goBuild(ctx context.Context, source string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, fastBuild, args)...)
	cmd.Dir = source
	// Static, because the nodes' root file system is another Debian than the machine's.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("go build: %w: %s", err, tail(out)))
	}
	return nil
}
