package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	gorunc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/criu"
)

// Annotations by which containerd's CRI plugin tells what a container is
// (containerd: internal/cri/annotations/annotations.go).
const (
	criContainerType = "io.kubernetes.cri.container-type"
	criSandboxID     = "io.kubernetes.cri.sandbox-id"
	criSandboxType   = "sandbox"
)

// criuConfigName is the file in a bundle that tells CRIU what runc cannot. It
// exists only while a migration is under way.
const criuConfigName = "criu.conf"

// container is one container of the shim's pod as its bundle describes it.
type container struct {
	id        string
	namespace string
	bundle    string
	// sandbox is true for the pod's pause container.
	sandbox bool
	// podID groups the containers of one shim.
	podID string
	// migration is the id that the container's annotation names, if any; admission
	// is what the node daemon says of it.
	migration string
	admission shimv1.Admission
	terminal  bool
	// mounts of its specification.
	mounts []specs.Mount
	// hooks: its specification has programs run when it is made.
	hooks bool
	// shared are the namespaces that it shares with its pod, if CRIU can work in there.
	shared sharedNamespaces
	// stdio are the pipes that containerd has for the container, for who attaches
	// to it anew.
	stdio stdio
}

// stdio are paths; empty ones are not connected.
type stdio struct{ in, out, err string }

// rootfs is where the container's root file system is mounted.
func (c *container) rootfs() string { return filepath.Join(c.bundle, "rootfs") }

// criuConfig is the file that the container's criu.ConfigAnnotation names.
func (c *container) criuConfig() string { return filepath.Join(c.bundle, criuConfigName) }

// runtime is runc as the task service calls it for this container.
func (c *container) runtime() (*gorunc.Runc, error) {
	opts, err := runc.ReadOptions(c.bundle)
	if err != nil {
		return nil, fmt.Errorf("read runc options of container %s: %w", c.id, err)
	}
	root, binary, systemd := process.RuncRoot, "", false
	if opts != nil {
		binary, systemd = opts.BinaryName, opts.SystemdCgroup
		if opts.Root != "" {
			root = opts.Root
		}
	}
	return process.NewRunc(root, c.bundle, c.namespace, binary, systemd), nil
}

// pid is the container's init process in the shim's pid namespace.
func (c *container) pid() (int, error) {
	pid, err := gorunc.ReadPidFile(filepath.Join(c.bundle, process.InitPidFile))
	if err != nil {
		return 0, fmt.Errorf("pid of container %s: %w", c.id, err)
	}
	return pid, nil
}

// openBundle reads what a container's OCI specification says, and adds to it
// the annotation by which CRIU can be given options later.
func openBundle(id, namespace, bundle string) (*container, error) {
	path := filepath.Join(bundle, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read OCI specification: %w", err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, fmt.Errorf("decode OCI specification %s: %w", path, err)
	}
	c := &container{
		id: id, namespace: namespace, bundle: bundle, podID: id,
		sandbox:   spec.Annotations[criContainerType] == criSandboxType,
		migration: spec.Annotations[shimv1.Annotation],
		terminal:  spec.Process != nil && spec.Process.Terminal,
		mounts:    spec.Mounts,
		hooks:     spec.Hooks != nil,
		shared:    namespacesOf(&spec),
	}
	if s := spec.Annotations[criSandboxID]; s != "" {
		c.podID = s
	}
	if _, own := spec.Annotations[criu.ConfigAnnotation]; own {
		return c, nil
	}
	return c, annotate(path, raw, criu.ConfigAnnotation, c.criuConfig())
}

// annotate sets one annotation of a specification and leaves every other byte's
// meaning alone, also what this build of the specification does not know.
func annotate(path string, raw []byte, key, value string) error {
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(raw, &spec); err != nil {
		return fmt.Errorf("decode OCI specification: %w", err)
	}
	annotations := map[string]string{}
	if a, ok := spec["annotations"]; ok {
		if err := json.Unmarshal(a, &annotations); err != nil {
			return fmt.Errorf("decode annotations of OCI specification: %w", err)
		}
	}
	annotations[key] = value
	encoded, err := json.Marshal(annotations)
	if err != nil {
		return fmt.Errorf("encode annotations: %w", err)
	}
	spec["annotations"] = encoded
	out, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode OCI specification: %w", err)
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		return fmt.Errorf("write OCI specification: %w", err)
	}
	return nil
}

// pod holds the containers that the task service has.
type pod struct {
	mu         sync.Mutex
	containers map[string]*container // by id, guarded by mu
	// settings are what its sandbox was made with, readSettings's; empty if that is not known. Guarded by mu.
	settings string
}

// noteSettings reads what the sandbox, which has just been made, is set to.
func (p *pod) noteSettings(sandbox *container) error {
	pid, err := sandbox.pid()
	if err != nil {
		return err
	}
	settings, err := readSettings(pid)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settings = settings
	return nil
}

func (p *pod) madeWith() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.settings
}

func (p *pod) add(c *container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.containers[c.id] = c
}

// remove returns how many containers are left.
func (p *pod) remove(id string) (left int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.containers, id)
	return len(p.containers)
}

func (p *pod) get(id string) (*container, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.containers[id]
	return c, ok
}

// sandboxPID is the pause container's process, 0 if there is none.
func (p *pod) sandboxPID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.containers {
		if !c.sandbox {
			continue
		}
		if pid, err := c.pid(); err == nil {
			return pid
		}
	}
	return 0
}

// workloads returns the containers that are not the sandbox's own.
func (p *pod) workloads() []*container {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*container
	for _, c := range p.containers {
		if !c.sandbox {
			out = append(out, c)
		}
	}
	return out
}
