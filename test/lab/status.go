package lab

import (
	"context"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// Status is the whole lab at one moment.
type Status struct {
	ID    string       `json:"id"`
	Nodes []NodeStatus `json:"nodes"`
	// Kubernetes is the cluster that the nodes are, if they are one.
	Kubernetes *KubernetesStatus `json:"kubernetes,omitempty"`
}

// KubernetesStatus is the cluster, as far as the lab itself knows: its control plane's machine and how to reach it.
type KubernetesStatus struct {
	Server     string                   `json:"server"`
	Kubeconfig string                   `json:"kubeconfig"`
	Bin        string                   `json:"bin"`
	Running    bool                     `json:"running"` // the machine
	Services   []nodeinit.ServiceStatus `json:"services,omitempty"`
	Error      string                   `json:"error,omitempty"` // why something above is not known
}

// NodeStatus is one node. A node that died has a name, Running false, and nothing else.
type NodeStatus struct {
	Name       string                   `json:"name"`
	Running    bool                     `json:"running"`
	PID        int                      `json:"pid,omitempty"`
	Addr       string                   `json:"address,omitempty"`
	PodSubnet  string                   `json:"pod_subnet,omitempty"`
	Rate       uint64                   `json:"rate_bits_per_second,omitempty"`
	Delay      time.Duration            `json:"delay_ns,omitempty"`
	Link       string                   `json:"link,omitempty"` // "veth" or "delay-line"
	LinkUp     bool                     `json:"link_up"`
	Services   []nodeinit.ServiceStatus `json:"services,omitempty"`
	Pods       int                      `json:"pods"` // that are ready
	Containers int                      `json:"containers"`
	Error      string                   `json:"error,omitempty"` // why something above is not known
}

// Status asks every node; one that does not answer within a few seconds is reported so.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	status := Status{ID: l.id, Nodes: []NodeStatus{}}
	names, err := l.knownNodes()
	if err != nil {
		return status, err
	}
	for _, name := range names {
		if name == controlName {
			continue
		}
		if n := l.Node(name); n != nil && n.Alive() {
			status.Nodes = append(status.Nodes, n.status(ctx))
		} else {
			status.Nodes = append(status.Nodes, NodeStatus{Name: name})
		}
	}
	if c := l.Kubernetes(); c != nil {
		status.Kubernetes = c.status()
	}
	return status, nil
}

func (c *Cluster) status() *KubernetesStatus {
	s := &KubernetesStatus{Server: c.Server(), Kubeconfig: c.Kubeconfig(), Bin: c.Bin()}
	if s.Running = c.control != nil && c.control.Alive(); !s.Running {
		return s
	}
	var err error
	if s.Services, err = c.control.Services(); err != nil {
		s.Error = err.Error()
	}
	return s
}

func (n *Node) status(ctx context.Context) NodeStatus {
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(5*time.Second))
	defer cancel()
	u := n.state.Uplink
	s := NodeStatus{
		Name: n.Name, Running: true, PID: n.PID(), Addr: n.Addr().String(), PodSubnet: n.PodSubnet().String(),
		Rate: u.Rate, Delay: u.Delay, Link: string(u.Kind), LinkUp: n.lab.attached(n.state, Shape{Rate: u.Rate, Delay: u.Delay}, u.Kind == uplinkVeth),
	}
	var err error
	if s.Services, err = n.Services(); err != nil {
		s.Error = err.Error()
	}
	pods, err := n.Pods(ctx)
	if err != nil {
		s.Error = err.Error()
	}
	for _, p := range pods {
		if p.State != "ready" {
			continue
		}
		s.Pods++
		for _, c := range p.Containers {
			if c.State == "running" {
				s.Containers++
			}
		}
	}
	return s
}
