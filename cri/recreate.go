package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Node is what a node lays down for the pods that are made again on it.
type Node struct {
	// CgroupParent replaces the pod's own, if set.
	CgroupParent string
	// LogRoot is the directory in which pods' log directories may be made.
	LogRoot string
}

// Made is a pod that Recreate made: its containers are created and not started.
type Made struct {
	Sandbox    string   // its id
	Containers []string // their ids, in the order of the description
}

// Recreate makes the pod of a description on this node: the sandbox runs, the
// containers are created. annotations go on the sandbox and on each container,
// over any of the same name. What was made is returned with an error too, for
// the caller to remove.
func (c *Client) Recreate(ctx context.Context, d *Description, n Node, annotations map[string]string) (Made, error) {
	var made Made
	if err := d.Valid(); err != nil {
		return made, err
	}
	if err := checkMounts(d); err != nil {
		return made, err
	}
	if err := makeLogDirectory(n.LogRoot, d); err != nil {
		return made, err
	}
	sandbox := sandboxConfig(d, n, annotations)
	s, err := c.runtime.RunPodSandbox(ctx, &runtimev1.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: d.Handler})
	if err != nil {
		return made, fmt.Errorf("run pod sandbox: %w", err)
	}
	made.Sandbox = s.PodSandboxId
	for _, ct := range d.Containers {
		r, err := c.runtime.CreateContainer(ctx, &runtimev1.CreateContainerRequest{
			PodSandboxId:  made.Sandbox,
			Config:        containerConfig(ct, annotations),
			SandboxConfig: sandbox,
		})
		if err != nil {
			return made, fmt.Errorf("create container %s: %w", ct.Name(), err)
		}
		made.Containers = append(made.Containers, r.ContainerId)
	}
	return made, nil
}

// sandboxConfig is the described sandbox as this node makes it: the next
// attempt of the same pod.
func sandboxConfig(d *Description, n Node, annotations map[string]string) *runtimev1.PodSandboxConfig {
	c := proto.Clone(d.Sandbox).(*runtimev1.PodSandboxConfig)
	c.Metadata.Attempt++
	c.Annotations = annotate(c.Annotations, annotations)
	if n.CgroupParent != "" {
		if c.Linux == nil {
			c.Linux = new(runtimev1.LinuxPodSandboxConfig)
		}
		c.Linux.CgroupParent = n.CgroupParent
	}
	return c
}

// containerConfig is the described container as this node makes it: its image
// by digest, so that a name that means something else here does not matter.
func containerConfig(ct ContainerDescription, annotations map[string]string) *runtimev1.ContainerConfig {
	c := proto.Clone(ct.Config).(*runtimev1.ContainerConfig)
	c.Annotations = annotate(c.Annotations, annotations)
	image := &runtimev1.ImageSpec{Image: ct.Image}
	if c.Image != nil {
		image.UserSpecifiedImage = c.Image.UserSpecifiedImage
		image.RuntimeHandler = c.Image.RuntimeHandler
	}
	c.Image = image
	return c
}

func annotate(old, add map[string]string) map[string]string {
	merged := make(map[string]string, len(old)+len(add))
	for k, v := range old {
		merged[k] = v
	}
	for k, v := range add {
		merged[k] = v
	}
	return merged
}

// checkMounts finds the mounts whose source this node lacks: containerd would
// make an empty directory in its place.
func checkMounts(d *Description) error {
	for _, ct := range d.Containers {
		for _, m := range ct.Config.GetMounts() {
			if m.GetHostPath() == "" {
				continue
			}
			if _, err := os.Stat(m.GetHostPath()); err != nil {
				return fmt.Errorf("container %s mounts %s, which this node does not have: make it here first: %w",
					ct.Name(), m.GetHostPath(), errors.Join(err, ErrImmovable))
			}
		}
	}
	return nil
}

// makeLogDirectory makes the directory that kubelet makes for a pod's logs. The
// path comes from a peer: it is made below root only, following no link out of it.
func makeLogDirectory(root string, d *Description) error {
	dir := d.Sandbox.GetLogDirectory()
	if dir == "" {
		return nil
	}
	rel, err := filepath.Rel(root, dir)
	if err != nil || !filepath.IsLocal(rel) {
		return fmt.Errorf("pod's log directory %s is not below %s: set log_root on this node: %w", dir, root, ErrImmovable)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("root of the pods' logs: %w", err)
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("root of the pods' logs: %w", err)
	}
	defer r.Close()
	if err := r.MkdirAll(rel, 0o755); err != nil {
		return fmt.Errorf("pod's log directory: %w", err)
	}
	for _, ct := range d.Containers {
		if sub := filepath.Dir(ct.Config.GetLogPath()); sub != "." {
			if err := r.MkdirAll(filepath.Join(rel, sub), 0o755); err != nil {
				return fmt.Errorf("container's log directory: %w", err)
			}
		}
	}
	return nil
}

// RemoveLogDirectory takes away what Recreate made for the logs of a pod that
// did not come to run. Logs of an earlier stay of the pod on this node remain.
func RemoveLogDirectory(root string, d *Description) error {
	rel, err := filepath.Rel(root, d.Sandbox.GetLogDirectory())
	if err != nil || rel == "." || !filepath.IsLocal(rel) {
		return nil
	}
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer r.Close()
	for _, ct := range d.Containers {
		path := filepath.Join(rel, ct.Config.GetLogPath())
		if fi, err := r.Lstat(path); err == nil && fi.Mode().IsRegular() && fi.Size() == 0 {
			_ = r.Remove(path)
		}
		removeEmpty(r, filepath.Dir(path), rel)
	}
	removeEmpty(r, rel, rel)
	return nil
}

// removeEmpty removes dir and its parents up to top as long as they are empty.
func removeEmpty(r *os.Root, dir, top string) {
	for dir == top || strings.HasPrefix(dir, top+"/") {
		if err := r.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		dir = filepath.Dir(dir)
	}
}

// Annotated are the sandboxes that bear the annotation with this value.
func (c *Client) Annotated(ctx context.Context, key, value string) ([]string, error) {
	pods, err := c.Pods(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, p := range pods {
		if p.Annotations[key] == value {
			ids = append(ids, p.ID)
		}
	}
	return ids, nil
}
