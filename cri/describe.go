package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrImmovable is wrapped by the error for a pod that holds something that
// cannot be made again on another node.
var ErrImmovable = errors.New("the pod cannot be moved")

// maxContainers bounds a description from a peer.
const maxContainers = 256

// Description is all that another node needs to make a pod again.
type Description struct {
	Sandbox    *runtimev1.PodSandboxConfig `json:"sandbox"`
	Handler    string                      `json:"handler"`
	Containers []ContainerDescription      `json:"containers"`
}

// ContainerDescription is one container of a Description.
type ContainerDescription struct {
	// ID is the container's id on the node where it was described.
	ID     string                     `json:"id"`
	Config *runtimev1.ContainerConfig `json:"config"`
	// Image is the id of the image, the digest of its configuration.
	Image string `json:"image"`
}

// Name is the container's name in its pod.
func (d ContainerDescription) Name() string { return d.Config.GetMetadata().GetName() }

// Describe returns the description of a pod: its sandbox's configuration and
// that of every running container, in the order of their making. It wraps
// ErrImmovable for a pod that cannot be made again.
func (c *Client) Describe(ctx context.Context, p Pod) (*Description, error) {
	s, err := c.runtime.PodSandboxStatus(ctx, &runtimev1.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("status of pod %s: %w", p.FullName(), err)
	}
	// internal/cri/types.SandboxInfo of containerd
	var sandbox struct {
		Config *runtimev1.PodSandboxConfig `json:"config"`
	}
	if err := json.Unmarshal([]byte(s.Info["info"]), &sandbox); err != nil || sandbox.Config == nil {
		return nil, fmt.Errorf("pod %s: containerd's verbose status has no configuration: %w", p.FullName(), errors.Join(err, ErrImmovable))
	}
	d := &Description{Sandbox: sandbox.Config, Handler: p.Handler}
	for _, ct := range p.Running() {
		cd, err := c.describeContainer(ctx, ct)
		if err != nil {
			return nil, err
		}
		d.Containers = append(d.Containers, cd)
	}
	if err := d.Valid(); err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.FullName(), err)
	}
	return d, nil
}

func (c *Client) describeContainer(ctx context.Context, ct PodContainer) (ContainerDescription, error) {
	info, _, err := c.containerInfo(ctx, ct.ID)
	if err != nil {
		return ContainerDescription{}, err
	}
	s, err := c.runtime.ContainerStatus(ctx, &runtimev1.ContainerStatusRequest{ContainerId: ct.ID})
	if err != nil {
		return ContainerDescription{}, fmt.Errorf("status of container %s: %w", ct.Name, err)
	}
	ref := s.GetStatus().GetImageRef()
	img, err := c.images.ImageStatus(ctx, &runtimev1.ImageStatusRequest{Image: &runtimev1.ImageSpec{Image: ref}})
	if err != nil {
		return ContainerDescription{}, fmt.Errorf("image %s of container %s: %w", ref, ct.Name, err)
	}
	if img.Image == nil {
		return ContainerDescription{}, fmt.Errorf("image %s of container %s is no longer on this node: %w", ref, ct.Name, ErrImmovable)
	}
	return ContainerDescription{ID: ct.ID, Config: info.Config, Image: img.Image.Id}, nil
}

// containerInfo is what containerd adds to a container's verbose status
// (internal/cri/server/container_status.go, ContainerInfo).
type containerInfo struct {
	SandboxID   string                     `json:"sandboxID"`
	Config      *runtimev1.ContainerConfig `json:"config"`
	RuntimeSpec *specs.Spec                `json:"runtimeSpec"`
}

func (c *Client) containerInfo(ctx context.Context, id string) (*containerInfo, *runtimev1.ContainerStatus, error) {
	s, err := c.runtime.ContainerStatus(ctx, &runtimev1.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		return nil, nil, fmt.Errorf("status of container %.12s: %w", id, err)
	}
	info := new(containerInfo)
	if err := json.Unmarshal([]byte(s.Info["info"]), info); err != nil || info.Config == nil {
		return nil, nil, fmt.Errorf("container %.12s: containerd's verbose status has no configuration: %w", id, errors.Join(err, ErrImmovable))
	}
	return info, s.Status, nil
}

// SharedMemory is the directory on this node that the container sees as
// /dev/shm; empty if it has the node's own, or none that others of the pod share.
func (c *Client) SharedMemory(ctx context.Context, container string) (string, error) {
	info, _, err := c.containerInfo(ctx, container)
	if err != nil {
		return "", err
	}
	return sharedMemory(info.RuntimeSpec), nil
}

func sharedMemory(spec *specs.Spec) string {
	if spec == nil {
		return ""
	}
	for _, m := range spec.Mounts {
		if filepath.Clean(m.Destination) == "/dev/shm" && m.Type == "bind" && filepath.Clean(m.Source) != "/dev/shm" {
			return m.Source
		}
	}
	return ""
}

// Encode writes the description for the wire.
func (d *Description) Encode() ([]byte, error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("pod description: %w", err)
	}
	return b, nil
}

// maxDescription bounds a description from a peer, bytes: more than ttrpc
// carries in one message never arrives.
const maxDescription = 3 << 20

// DecodeDescription reads what a peer encoded. What it returns is Valid.
func DecodeDescription(b []byte) (*Description, error) {
	if len(b) > maxDescription {
		return nil, fmt.Errorf("pod description of %d bytes: more than %d", len(b), maxDescription)
	}
	d := new(Description)
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("pod description: %w", err)
	}
	if err := d.Valid(); err != nil {
		return nil, err
	}
	return d, nil
}

// Valid says whether another node can make the pod from the description. Its
// errors wrap ErrImmovable.
func (d *Description) Valid() error {
	meta := d.Sandbox.GetMetadata()
	switch {
	case meta.GetName() == "" || meta.GetNamespace() == "" || meta.GetUid() == "":
		return fmt.Errorf("its sandbox has no name, namespace or uid: %w", ErrImmovable)
	case d.Handler != Handler:
		return fmt.Errorf("its runtime handler is %q, not %q: %w", d.Handler, Handler, ErrImmovable)
	case len(d.Containers) == 0:
		return fmt.Errorf("none of its containers runs: %w", ErrImmovable)
	case len(d.Containers) > maxContainers:
		return fmt.Errorf("it has %d containers, more than %d: %w", len(d.Containers), maxContainers, ErrImmovable)
	case d.Sandbox.GetLogDirectory() != "" && !clean(d.Sandbox.GetLogDirectory()):
		return fmt.Errorf("its log directory %q is no clean absolute path: %w", d.Sandbox.GetLogDirectory(), ErrImmovable)
	}
	if ns := d.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions(); ns.GetNetwork() == runtimev1.NamespaceMode_NODE ||
		ns.GetPid() == runtimev1.NamespaceMode_NODE || ns.GetIpc() == runtimev1.NamespaceMode_NODE {
		return fmt.Errorf("it shares a namespace with the node: %w", ErrImmovable)
	}
	seen := make(map[string]bool, len(d.Containers))
	for _, ct := range d.Containers {
		if err := ct.valid(); err != nil {
			return err
		}
		if seen[ct.Name()] {
			return fmt.Errorf("two of its containers are named %s: %w", ct.Name(), ErrImmovable)
		}
		seen[ct.Name()] = true
	}
	return nil
}

func (d ContainerDescription) valid() error {
	name := d.Name()
	switch {
	case name == "":
		return fmt.Errorf("a container has no name: %w", ErrImmovable)
	case !isDigest(d.Image):
		return fmt.Errorf("container %s: image id %q is no digest: %w", name, d.Image, ErrImmovable)
	case d.Config.GetTty():
		return fmt.Errorf("container %s has a terminal: %w", name, ErrImmovable)
	case len(d.Config.GetDevices()) > 0 || len(d.Config.GetCDIDevices()) > 0:
		return fmt.Errorf("container %s has devices of the node: %w", name, ErrImmovable)
	case d.Config.GetLogPath() != "" && !filepath.IsLocal(d.Config.GetLogPath()):
		return fmt.Errorf("container %s: log path %q leaves the pod's log directory: %w", name, d.Config.GetLogPath(), ErrImmovable)
	}
	for _, m := range d.Config.GetMounts() {
		if m.GetHostPath() != "" && !clean(m.GetHostPath()) {
			return fmt.Errorf("container %s: mount source %q is no clean absolute path: %w", name, m.GetHostPath(), ErrImmovable)
		}
	}
	return nil
}

func clean(path string) bool { return filepath.IsAbs(path) && filepath.Clean(path) == path }

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	return strings.Trim(hex, "0123456789abcdef") == ""
}
