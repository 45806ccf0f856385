package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	containerdshim "github.com/containerd/containerd/v2/pkg/shim"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/cpuquota"
	"godwit.dev/godwit/shim/criu"
)

// starter starts shims and clears up after dead ones: runc's way, plus what a
// migration may have left.
type starter struct{ containerdshim.Manager }

// NewManager returns what containerd's shim framework starts and stops shims by.
func NewManager() containerdshim.Manager {
	return starter{manager.NewShimManager(RuntimeName)}
}

// Stop is called, in the dead shim's stead, for each of its containers.
func (s starter) Stop(ctx context.Context, id string) (containerdshim.StopStatus, error) {
	bundle := ""
	if cwd, err := os.Getwd(); err == nil {
		bundle = filepath.Join(filepath.Dir(cwd), id)
		clearSourceDir(bundle)
		_ = cpuquota.PutBack(throttleRecord(bundle)) // so that it dies soon; the quota goes with it
	}
	standingErr := endStanding(ctx, bundle)
	if path := bundleCgroup(bundle); path != "" {
		endCgroup(ctx, path) // before CRIU, whose death alone would let go what it has restored
	}
	killRestore(ctx, id)
	os.Remove(shimv1.SocketPath(id))
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return containerdshim.StopStatus{}, err
	}
	root := filepath.Join(process.RuncRoot, namespace)
	if err := unmountRestoreRoot(root, id); err != nil {
		return containerdshim.StopStatus{}, err
	}
	status, err := s.Manager.Stop(ctx, id)
	err = errors.Join(err, standingErr, clearRestoreRoot(root, id))
	clearCgroups(bundle)
	return status, errors.Join(err, criu.RemoveYards())
}
