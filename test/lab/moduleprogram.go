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
)

// moduleProgram is a program of somebody else's that is built from a module of its own below test/lab, which names its version.
type moduleProgram struct {
	// module is the module's directory below test/lab, and the build's in the cache.
	module string
	// program is the name of its binary, and pkg its package.
	program, pkg string
	// flags of go build, beside those that every build has.
	flags []string
}

// dir is the directory in the cache with the program in it, built the first time.
func (l layout) moduleProgram(ctx context.Context, p moduleProgram) (dir string, err error) {
	kubernetes, err := kubernetesSource("")
	if err != nil {
		return "", fmt.Errorf("%s: %w", p.program, err)
	}
	source := filepath.Join(filepath.Dir(kubernetes), p.module)
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("source of %s: %w", p.program, err)
		}
		sum.Write(b)
	}
	dir = filepath.Join(l.cache, p.module, hex.EncodeToString(sum.Sum(nil)[:6]))
	release, err := flock(ctx, filepath.Join(l.cache, "locks", p.module))
	if err != nil {
		return "", err
	}
	defer release()
	if isDir(dir) {
		return dir, nil
	}
	err = atomicDir(dir, func(tmp string) error {
		args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tmp, p.program)}, p.flags...)
		cmd := exec.CommandContext(ctx, "go", append(args, p.pkg)...)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("go build: %w: %s", err, tail(out)))
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("build %s: %w", p.program, err)
	}
	return dir, nil
}
