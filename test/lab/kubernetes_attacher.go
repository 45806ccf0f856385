package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// EnvAttacher names a directory with external-attacher's program, csi-attacher, to be taken as it is instead of built.
const EnvAttacher = "GODWIT_LAB_ATTACHER"

// attacher is Kubernetes's own program between VolumeAttachments and the controller side of a CSI driver.
var attacher = moduleProgram{
	name: "csi-attacher", pkg: "github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher",
}

// attacherDir is where the control plane's machine has it.
const attacherDir = "/opt/csi-attacher"

// attacherBin returns the directory with csi-attacher, building it the first time: for some minutes without a build cache.
// Without the source it takes the newest that the cache has.
func (l *Lab) attacherBin(ctx context.Context) (string, error) {
	if dir := os.Getenv(EnvAttacher); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("%s: %w", EnvAttacher, err)
		}
		if _, err := exec.LookPath(filepath.Join(dir, attacher.name)); err != nil {
			return "", fmt.Errorf("%s: %w", EnvAttacher, err)
		}
		return dir, nil
	}
	dir, err := l.moduleProgram(ctx, attacher)
	if !errors.Is(err, errNoSource) {
		return dir, err
	}
	return newestBuild(filepath.Join(l.cache, attacher.name), attacher.name)
}
