package lab

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
)

// EnvHelm names helm's program, to be taken as it is instead of built.
const EnvHelm = "GODWIT_LAB_HELM"

var helm = moduleProgram{
	module: "helm", program: "helm", pkg: "helm.sh/helm/v3/cmd/helm",
	flags: []string{"-gcflags=all=-dwarf=false"}, // nobody debugs it
}

// HelmBin returns helm's program, building it the first time: for some minutes without a build cache.
func HelmBin(ctx context.Context) (string, error) {
	if program := os.Getenv(EnvHelm); program != "" {
		return exec.LookPath(program)
	}
	l, err := newLayout("")
	if err != nil {
		return "", err
	}
	dir, err := l.moduleProgram(ctx, helm)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, helm.program), nil
}
