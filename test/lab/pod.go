package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DefaultHandler is the CRI runtime handler of pods that name none.
const DefaultHandler = "godwit"

// PodSpec says what pod to run: what kubelet would be told, without Kubernetes.
type PodSpec struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitempty"` // default "default"
	Handler     string            `json:"handler,omitempty"`   // default DefaultHandler; "runc" for plain containerd
	Hostname    string            `json:"hostname,omitempty"`  // default the name
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Containers  []ContainerSpec   `json:"containers"`
}

// ContainerSpec is one container of a pod.
type ContainerSpec struct {
	Name        string            `json:"name,omitempty"` // default the image's short name, made unique
	Image       string            `json:"image"`          // see ImageRef
	Command     []string          `json:"command,omitempty"`
	Args        []string          `json:"args,omitempty"`
	Env         []string          `json:"env,omitempty"` // "NAME=value"
	WorkDir     string            `json:"work_dir,omitempty"`
	UID         *int64            `json:"uid,omitempty"`
	Privileged  bool              `json:"privileged,omitempty"`
	Mounts      []Mount           `json:"mounts,omitempty"`
	Memory      int64             `json:"memory_bytes,omitempty"` // limit
	MilliCPU    int64             `json:"milli_cpu,omitempty"`    // limit
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Mount is a directory of the node in a container; it is made if it does not exist.
type Mount struct {
	Node      string `json:"node"`
	Container string `json:"container"`
	ReadOnly  bool   `json:"read_only,omitempty"`
}

// Pod is a pod that runs.
type Pod struct {
	Node       string         `json:"node"`
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Namespace  string         `json:"namespace"`
	UID        string         `json:"uid"`
	Handler    string         `json:"handler"`
	State      string         `json:"state"` // "ready", "notready"
	IP         string         `json:"ip"`
	Created    time.Time      `json:"created"`
	Containers []PodContainer `json:"containers"`
}

// PodContainer is one of its containers.
type PodContainer struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Image string `json:"image"`
	State string `json:"state"`         // "created", "running", "exited"
	Log   string `json:"log,omitempty"` // path in the node
}

// Container finds one by name, or is nil.
func (p *Pod) Container(name string) *PodContainer {
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// podCgroup is the parent of all pods' cgroups, in the node's own cgroup namespace: the same path on every node.
const podCgroup = "/pods"

// ErrCluster is returned for a pod that a node's kubelet would end within seconds, because the API server does not know it.
var ErrCluster = errors.New("the node is one of a Kubernetes cluster, whose kubelet ends pods that are not the cluster's; make it with kubectl")

// RunPod runs a pod through CRI, as kubelet would, and returns when its containers are started. A pod that cannot be started
// whole is removed. On a node of a cluster it fails with ErrCluster.
func (n *Node) RunPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	if n.lab.kubernetes != "" {
		return nil, fmt.Errorf("pod %s on node %s: %w", spec.Name, n.Name, ErrCluster)
	}
	sandbox, err := spec.sandboxConfig()
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", spec.Name, err)
	}
	handler := spec.Handler
	if handler == "" {
		handler = DefaultHandler
	}
	runtime, err := n.Runtime()
	if err != nil {
		return nil, err
	}
	got, err := runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: sandbox, RuntimeHandler: handler})
	if err != nil {
		return nil, fmt.Errorf("pod %s on node %s: sandbox: %w", spec.Name, n.Name, err)
	}
	err = n.startContainers(ctx, runtime, got.PodSandboxId, sandbox, spec)
	if err == nil {
		var pod *Pod
		if pod, err = n.Pod(ctx, got.PodSandboxId); err == nil {
			return pod, nil
		}
	}
	// Also when ctx has ended.
	if rerr := n.RemovePod(context.WithoutCancel(ctx), got.PodSandboxId); rerr != nil {
		err = fmt.Errorf("%w (and removing it: %w)", err, rerr)
	}
	return nil, fmt.Errorf("pod %s on node %s: %w", spec.Name, n.Name, err)
}

func (n *Node) startContainers(ctx context.Context, runtime runtimeapi.RuntimeServiceClient, pod string, sandbox *runtimeapi.PodSandboxConfig, spec PodSpec) error {
	var ids []string
	for i, c := range spec.Containers {
		config := c.config(spec.containerName(i), sandbox)
		made, err := runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
		if err != nil {
			return fmt.Errorf("create container %s: %w", config.Metadata.Name, err)
		}
		ids = append(ids, made.ContainerId)
	}
	for i, id := range ids {
		if _, err := runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
			return fmt.Errorf("start container %s: %w", spec.containerName(i), err)
		}
	}
	return nil
}

// sandboxConfig is the pod as CRI wants it, with the labels that kubelet gives.
func (s PodSpec) sandboxConfig() (*runtimeapi.PodSandboxConfig, error) {
	if s.Name == "" {
		return nil, errors.New("it has no name")
	}
	if len(s.Containers) == 0 {
		return nil, errors.New("it has no container")
	}
	namespace, hostname := s.Namespace, s.Hostname
	if namespace == "" {
		namespace = "default"
	}
	if hostname == "" {
		hostname = s.Name
	}
	uid := newUID()
	labels := map[string]string{"io.kubernetes.pod.name": s.Name, "io.kubernetes.pod.namespace": namespace, "io.kubernetes.pod.uid": uid}
	for k, v := range s.Labels {
		labels[k] = v
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: s.Name, Namespace: namespace, Uid: uid},
		Hostname:     hostname,
		LogDirectory: filepath.Join("/var/log/pods", s.Name),
		DnsConfig:    &runtimeapi.DNSConfig{},
		Labels:       labels,
		Annotations:  s.Annotations,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: podCgroup,
			Sysctls:      s.Sysctls,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: containerNamespaces(),
				Privileged:       s.privileged(),
			},
		},
	}, nil
}

// containerNamespaces is kubelet's default: network and IPC of the pod, PIDs of each container.
func containerNamespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
}

func (s PodSpec) privileged() bool {
	for _, c := range s.Containers {
		if c.Privileged {
			return true
		}
	}
	return false
}

// containerName is the name of container i: its own, or its image's, with a number where two are alike.
func (s PodSpec) containerName(i int) string {
	if s.Containers[i].Name != "" {
		return s.Containers[i].Name
	}
	short := func(image string) string {
		image = image[strings.LastIndex(image, "/")+1:]
		name, _, _ := strings.Cut(image, ":")
		return name
	}
	name, same := short(s.Containers[i].Image), 0
	for j := range i {
		if s.Containers[j].Name == "" && short(s.Containers[j].Image) == name {
			same++
		}
	}
	if same > 0 {
		name += fmt.Sprint("-", same+1)
	}
	return name
}

func (c ContainerSpec) config(name string, sandbox *runtimeapi.PodSandboxConfig) *runtimeapi.ContainerConfig {
	config := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: name},
		Image:       &runtimeapi.ImageSpec{Image: ImageRef(c.Image)},
		Command:     c.Command,
		Args:        c.Args,
		WorkingDir:  c.WorkDir,
		LogPath:     filepath.Join(name, "0.log"),
		Labels:      map[string]string{"io.kubernetes.container.name": name},
		Annotations: c.Annotations,
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: c.Memory},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				Privileged:       c.Privileged,
				NamespaceOptions: containerNamespaces(),
			},
		},
	}
	for k, v := range sandbox.Labels {
		config.Labels[k] = v
	}
	if c.MilliCPU > 0 {
		config.Linux.Resources.CpuPeriod, config.Linux.Resources.CpuQuota = 100_000, c.MilliCPU*100
	}
	if c.UID != nil {
		config.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: *c.UID}
	}
	for _, e := range c.Env {
		key, value, _ := strings.Cut(e, "=")
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: key, Value: value})
	}
	for _, m := range c.Mounts {
		config.Mounts = append(config.Mounts, &runtimeapi.Mount{HostPath: m.Node, ContainerPath: m.Container, Readonly: m.ReadOnly})
	}
	return config
}

func newUID() string {
	b := make([]byte, 16)
	rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// Pod tells about one pod of the node by its ID.
func (n *Node) Pod(ctx context.Context, id string) (*Pod, error) {
	pods, err := n.listPods(ctx, &runtimeapi.PodSandboxFilter{Id: id})
	if err != nil {
		return nil, err
	}
	if len(pods) != 1 {
		return nil, fmt.Errorf("node %s has no pod %s", n.Name, id)
	}
	return &pods[0], nil
}

// FindPod tells about the node's pod of that name that is ready; with none ready, about the newest of that name.
func (n *Node) FindPod(ctx context.Context, name string) (*Pod, error) {
	pods, err := n.Pods(ctx)
	if err != nil {
		return nil, err
	}
	var found *Pod
	for i, p := range pods {
		if p.Name == name && (found == nil || p.State == "ready" || found.State != "ready" && p.Created.After(found.Created)) {
			found = &pods[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("node %s has no pod called %s", n.Name, name)
	}
	return found, nil
}

// Pods lists the node's pods, the oldest first.
func (n *Node) Pods(ctx context.Context) ([]Pod, error) { return n.listPods(ctx, nil) }

func (n *Node) listPods(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]Pod, error) {
	runtime, err := n.Runtime()
	if err != nil {
		return nil, err
	}
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("pods of node %s: %w", n.Name, err)
	}
	pods := []Pod{}
	slices.SortFunc(list.Items, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) })
	for _, s := range list.Items {
		pod := Pod{
			Node: n.Name, ID: s.Id, Name: s.Metadata.GetName(), Namespace: s.Metadata.GetNamespace(), UID: s.Metadata.GetUid(),
			Handler: s.RuntimeHandler, State: strings.ToLower(strings.TrimPrefix(s.State.String(), "SANDBOX_")),
			Created: time.Unix(0, s.CreatedAt), Containers: []PodContainer{},
		}
		if status, err := runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id}); err == nil {
			pod.IP = status.GetStatus().GetNetwork().GetIp()
		}
		containers, err := runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: s.Id}})
		if err != nil {
			return nil, fmt.Errorf("containers of pod %s: %w", pod.Name, err)
		}
		slices.SortFunc(containers.Containers, func(a, b *runtimeapi.Container) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) })
		for _, c := range containers.Containers {
			name := c.Metadata.GetName()
			pod.Containers = append(pod.Containers, PodContainer{
				ID: c.Id, Name: name, Image: c.Image.GetImage(), State: strings.ToLower(strings.TrimPrefix(c.State.String(), "CONTAINER_")),
				Log: filepath.Join("/var/log/pods", pod.Name, name, "0.log"),
			})
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

// RemovePod stops and removes a pod by its ID; one that is gone already is as good.
func (n *Node) RemovePod(ctx context.Context, id string) error {
	runtime, err := n.Runtime()
	if err != nil {
		return err
	}
	if _, err := runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s on node %s: %w", id, n.Name, err)
	}
	if _, err := runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s on node %s: %w", id, n.Name, err)
	}
	return nil
}
