// Package processcheck looks at the running processes of a pod for what CRIU
// cannot dump, or what could not be restored on another node, before anything is
// done for a move. A Snapshot is gathered from /proc; judging it is a pure
// function. What the pod's object says is package podcheck's.
//
// What CRIU can and cannot was read in the sources of CRIU 4.2, each rule names
// the place, and is tried with the criu that is installed by the tests.
package processcheck

import (
	"net/netip"

	"godwit.dev/godwit/pagestream/criuversion"
)

// Snapshot is a pod's processes as they were at one moment, or nearly: they ran
// on while it was taken.
type Snapshot struct {
	// CRIU is the version that would dump them.
	CRIU criuversion.Version
	// Addresses are the pod's own, which it does not keep.
	Addresses []netip.Addr
	// SourceFirst says that the source's processes are gone before the destination's
	// are restored.
	SourceFirst bool
	// RootOnly says that nobody on the node has CAP_SYS_RESOURCE.
	RootOnly bool
	// UserNamespace is the node's own: in one below it, whoever made that has every capability.
	UserNamespace string
	Containers    []ContainerState
}

// ContainerState is what runs in one container.
type ContainerState struct {
	Name string
	// Storage is as in Container.
	Storage []string
	// Processes are the first process and its descendants, the first one first:
	// those that CRIU dumps.
	Processes []Process
	// Strangers were started in the container by others, by exec for example.
	// They are not dumped.
	Strangers []Stranger
}

// Stranger is a process that is in a container but does not descend from its
// first.
type Stranger struct {
	PID  int
	Name string
}

// Process is one process. PIDs are those of the node.
type Process struct {
	PID  int
	Name string
	// PIDInside is its pid in its own pid namespace.
	PIDInside int
	// State is one letter, as in /proc/PID/status.
	State   byte
	Threads int
	// Tracer is the process that traces it, 0 if there is none.
	Tracer int
	// Root says that its users and groups, real, effective and saved, are all root, by the node's numbers.
	Root bool
	// Namespaces by kind, "mnt" for example, each with the kernel's name of it.
	Namespaces map[string]string
	// Mounts of its mount namespace, by their ids.
	Mounts map[int]Mount
	Files  []File
	// Dir is its working directory.
	Dir string
	// Areas are those mapped areas that are neither anonymous nor of an ordinary
	// file, and those of files that the destination's pod has anew.
	Areas []Area
}

// Mount is one mount of a mount namespace.
type Mount struct {
	Device Device // of the file system
	Type   string // of the file system: "overlay"
	Super  string // options of the file system
	Point  string // where it is mounted
}

// Device is a device's number.
type Device struct{ Major, Minor uint32 }

// File is an open file of a process.
type File struct {
	FD   int
	Link string // what /proc/PID/fd/FD names
	Type uint32 // S_IFMT of the mode
	// Special is the number of a device file.
	Special Device
	// FileSystem that the file is on.
	FileSystem Device
	Inode      uint64
	Mount      int    // id of the mount by which it was opened
	Flags      uint64 // of open
	// Info holds the other lines of fdinfo that have one value each.
	Info map[string]string
	// Locked says that a lock is held by it that keeps others from having one.
	Locked bool
	// Watches are the file systems of an inotify's or fanotify's marks.
	Watches []Device
	// Socket is set for a socket that could be asked.
	Socket *Socket
}

// Socket is what a socket said of itself.
type Socket struct {
	Family, Type, Protocol int
	// State of a TCP socket, as the kernel numbers it; 0 for others.
	State int
	Local netip.AddrPort // of an inet socket
	// Corked holds back what it is given.
	Corked bool
	// Unread says that a netlink socket has messages waiting.
	Unread bool
	// HighGroup says that a netlink socket is in a group beyond the 32nd.
	HighGroup bool
	// Foreign says that a unix socket is not of the process's network namespace.
	Foreign bool
	// Peer is the inode of the socket that a unix socket is connected to, 0 if it
	// is not.
	Peer uint64
}

// Area is a mapped area.
type Area struct {
	Path string // as in maps
	// Device is true for an area of a device file.
	Device bool
	// Special is that device's number.
	Special Device
}
