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

// EnvHelm names helm's program, to be taken as it is instead of built.
const EnvHelm = "GODWIT_LAB_HELM"

// helmPackage is built in the module test/lab/helm, which names its version.
const helmPackage = "helm.sh/helm/v3/cmd/helm"

// HelmBin returns helm's program, building it the first time: for some minutes without a build cache.
func HelmBin(ctx context.Context) (string, error) {
	if program := os.Getenv(EnvHelm); program != "" {
		return exec.LookPath(program)
	}
	kubernetes, err := kubernetesSource("")
	if err != nil {
		return "", fmt.Errorf("helm: %w", err)
	}
	source := filepath.Join(filepath.Dir(kubernetes), "helm")
	l, err := newLayout("")
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", fmt.Errorf("source of helm: %w", err)
		}
		sum.Write(b)
	}
	dir := filepath.Join(l.cache, "helm", hex.EncodeToString(sum.Sum(nil)[:6]))
	program := filepath.Join(dir, "helm")
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "helm"))
	if err != nil {
		return "", err
	}
	defer release()
	if isDir(dir) {
		return program, nil
	}
	err = atomicDir(dir, func(tmp string) error {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-gcflags=all=-dwarf=false", "-o", filepath.Join(tmp, "helm"), helmPackage)
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("go build: %w: %s", err, tail(out)))
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("build helm: %w", err)
	}
	return program, nil
}
