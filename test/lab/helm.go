package lab

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
)

// EnvHelm names helm's program, to be taken as it is instead of built.
const EnvHelm = "GODWIT_LAB_HELM"

var helm = moduleProgram{name: "helm", pkg: "helm.sh/helm/v3/cmd/helm"}

// HelmBin returns helm's program, building it the first time: for some minutes without a build cache.
func HelmBin(ctx context.Context) (string, error) {
	if program := os.Getenv(EnvHelm); program != "" {
		return exec.LookPath(program)
	}
	lo, err := newLayout("")
	if err != nil {
		return "", err
	}
	l := &Lab{layout: lo, log: slog.New(slog.DiscardHandler)}
	dir, err := l.moduleProgram(ctx, helm)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, helm.name), nil
}
