package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
)

// shimBinary is what containerd starts for Handler.
const shimBinary = "containerd-shim-godwit-v2"

// ClearDeadTask clears up after a container whose shim is dead: its processes,
// its mounts, what runc and containerd keep of it. containerd does so for the
// container that a shim was started for, the sandbox, and not for those that
// joined it (core/runtime/v2/shim_manager.go, startShim: a shim that is shared
// is loaded without anything to do at its end). The container itself stays, for
// Remove. One of which nothing is left is no error.
func (c *Client) ClearDeadTask(ctx context.Context, id string) error {
	// containerd's state directory is where its socket is, unless both were moved.
	bundle := filepath.Join(filepath.Dir(c.socket), "io.containerd.runtime.v2.task", containerdNamespace, id)
	if _, err := os.Stat(bundle); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// What containerd runs in a dead shim's stead (core/runtime/v2/binary.go, Delete).
	cmd := exec.CommandContext(ctx, shimBinary, "-namespace", containerdNamespace, "-address", c.socket, "-id", id, "-bundle", bundle, "delete")
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+c.socket+".ttrpc")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("clear up after the shim of container %.12s: %w: %s", id, err, bytes.TrimSpace(said.Bytes()))
	}
	// containerd asks the dead shim first, and removes the bundle all the same
	// (core/runtime/v2/shim.go, delete).
	_, err := c.containerd.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if _, serr := os.Stat(bundle); errors.Is(serr, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errdefs.ErrInternal
	}
	return fmt.Errorf("clear up after the shim of container %.12s: %s is left: %w", id, bundle, err)
}
