// Package nodeinit is what PID 1 of a lab's node does: it builds the node's file system from mounts of its own namespace,
// pivots into it, and then is to the node what systemd is to a machine: it starts the services, starts them again when they
// end, and reaps orphans. Everything about the host (cgroups made, links attached, disks) is done before by package lab.
package nodeinit

import "time"

// Spec is everything that PID 1 is told, as JSON, by the host.
type Spec struct {
	Hostname string `json:"hostname"`
	// Lower is the shared root file system; Upper and Work are this node's; the overlay is mounted at Root.
	Lower string `json:"lower"`
	Upper string `json:"upper"`
	Work  string `json:"work"`
	Root  string `json:"root"`

	Binds       []Bind            `json:"binds"`
	Cgroups     []CgroupMount     `json:"cgroups"`
	CgroupLinks map[string]string `json:"cgroup_links"`
	RunSize     string            `json:"run_size"` // of the tmpfs on /run, as mount takes it: "75%"
	Files       []File            `json:"files"`
	Links       map[string]string `json:"links"` // symbolic links to make, path to target
	Services    []Service         `json:"services"`
}

// Bind is a directory of the host seen in the node, or a file in the place of one that the node has.
type Bind struct {
	Host     string `json:"host"`
	Node     string `json:"node"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// File is written into the node before its services start.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
	Mode    uint32 `json:"mode"`
}

// CgroupMount is one hierarchy, mounted afresh in the node's cgroup namespace.
type CgroupMount struct {
	Dir     string `json:"dir"` // below /sys/fs/cgroup; "." for a machine with version 2 alone
	V2      bool   `json:"v2,omitempty"`
	Options string `json:"options,omitempty"`
}

// Service is a program that PID 1 keeps running.
type Service struct {
	Name string   `json:"name"`
	Args []string `json:"args"` // Args[0] is the binary's absolute path, unless Program is
	// Program is the binary's absolute path if Args[0] is but a name.
	Program string `json:"program,omitempty"`
	// Notify: the service tells with systemd's protocol that it is ready, and the node is not up before.
	Notify bool `json:"notify,omitempty"`
	// Optional: the binary may be missing, now or for ever.
	Optional bool `json:"optional,omitempty"`
	// After names a service, further up in the list, that has to be Running before this one is started, or started again;
	// empty for none.
	After string `json:"after,omitempty"`
}

// Files that PID 1 leaves in the node for the host to read.
const (
	StatusFile = "/run/godwit-lab/status.json"
	LogDir     = "/var/log/godwit-lab"
)

// RestartAfter is the pause before a service that ended is started again.
const RestartAfter = 200 * time.Millisecond

// ServiceState is where a service is.
type ServiceState string

// The states of a service. Missing -> Starting when its binary appears; Starting -> Running when it runs and, with
// Notify, has said so; any -> Restarting when it ends; Restarting -> Starting after RestartAfter, and not before the service
// that it comes after is Running.
const (
	Missing    ServiceState = "binary missing"
	Starting   ServiceState = "starting"
	Running    ServiceState = "running"
	Restarting ServiceState = "restarting"
)

// ServiceStatus is one service in the StatusFile.
type ServiceStatus struct {
	Name     string       `json:"name"`
	State    ServiceState `json:"state"`
	PID      int          `json:"pid,omitempty"` // in the node's PID namespace
	Restarts int          `json:"restarts"`
	LastExit string       `json:"last_exit,omitempty"`
}
