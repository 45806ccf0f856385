package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
)

// Environment variables that move a lab's files. GODWIT_LAB_DIR gives a lab of its own: its directory, and, derived from
// it, its own links, addresses and cgroups, so that labs of different directories run side by side. GODWIT_LAB_CACHE moves
// the cache, which labs share.
const (
	EnvDir   = "GODWIT_LAB_DIR"
	EnvCache = "GODWIT_LAB_CACHE"
)

// MaxNodes is how many nodes one lab can have: their management addresses are .10 and up in one /24.
const MaxNodes = 200

// controlName and controlIndex are those of the machine that Kubernetes's control plane has for itself: no node is called so,
// and none has its address.
const (
	controlName  = "control-plane"
	controlIndex = MaxNodes
)

// PeerPort is the port on which each node's godwit-node listens for its peers.
const PeerPort = 9440

// layout names everything that a lab has: the single place where a path, a link name, an address or a cgroup is made.
type layout struct {
	id    string // "0" for the default lab, else six hex digits of the directory's hash
	state string // state.json of each node, the lab's lock and certificate authority
	data  string // disks of the nodes and layers of images
	cache string // root file systems and layers that outlive the lab
	base  int    // second octet of the management network, pods have the one after; 0 before there is a bridge
}

// newLayout gives the layout of the lab in dir, or, with an empty dir, of GODWIT_LAB_DIR or the machine's default lab.
func newLayout(dir string) (layout, error) {
	if dir == "" {
		dir = os.Getenv(EnvDir)
	}
	cache := os.Getenv(EnvCache)
	if cache == "" {
		cache = "/var/cache/godwit-lab"
	}
	if dir == "" {
		return layout{id: "0", state: "/run/godwit-lab", data: "/var/lib/godwit-lab", cache: cache}, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, fmt.Errorf("lab directory %s: %w", dir, err)
	}
	if abs == "/" {
		return layout{}, errors.New("lab directory: / cannot be one, it is removed when the lab goes down")
	}
	sum := sha256.Sum256([]byte(abs))
	return layout{
		id:    hex.EncodeToString(sum[:3]),
		state: filepath.Join(abs, "run"),
		data:  filepath.Join(abs, "data"),
		cache: cache,
	}, nil
}

// nodeName is what a node may be called: it becomes a host name, a directory and a cgroup.
var nodeName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// defaultNames gives the names of n nodes: a to z, then a2 and so on.
func defaultNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = string(rune('a' + i%26))
		if i >= 26 {
			names[i] += fmt.Sprint(i/26 + 1)
		}
	}
	return names
}

func (l layout) stateDir(node string) string  { return filepath.Join(l.state, "nodes", node) }
func (l layout) stateFile(node string) string { return filepath.Join(l.stateDir(node), "state.json") }
func (l layout) pkiDir() string               { return filepath.Join(l.state, "pki") }
func (l layout) dataDir(node string) string   { return filepath.Join(l.data, "nodes", node) }
func (l layout) logDir(node string) string    { return filepath.Join(l.dataDir(node), "log") }

// lockFile is outside of what down removes: a lock that disappears while somebody waits for it serialises nothing.
func (l layout) lockFile() string { return filepath.Join(l.cache, "locks", "lab-"+l.id) }

// cgroup is the lab's cgroup, relative to the root of each hierarchy.
func (l layout) cgroup() string                { return "godwit-lab-" + l.id }
func (l layout) nodeCgroup(node string) string { return filepath.Join(l.cgroup(), "nodes", node) }
func (l layout) linkCgroup(node string) string { return filepath.Join(l.cgroup(), "links", node) }

// linkPrefix starts the name of every network interface that this lab has on the host.
func (l layout) linkPrefix() string    { return "gw" + l.id + "-" }
func (l layout) bridge() string        { return l.linkPrefix() + "br" }
func (l layout) hostLink(i int) string { return fmt.Sprintf("%sn%d", l.linkPrefix(), i) }
func (l layout) nearTap(i int) string  { return fmt.Sprintf("%st%d", l.linkPrefix(), i) }
func (l layout) hostAddr() netip.Addr  { return netip.AddrFrom4([4]byte{10, byte(l.base), 0, 1}) }
func (l layout) management() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(l.base), 0, 0}), 24)
}

// nodeAddr is the management address of the node with index i.
func (l layout) nodeAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(l.base), 0, byte(10 + i)})
}

// podSubnet is where the node with index i gives addresses to its pods.
func (l layout) podSubnet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(l.base + 1), byte(i), 0}), 24)
}

// podNetwork holds the addresses of all pods, and of services.
func (l layout) podNetwork() netip.Prefix {
	return netip.PrefixFrom(l.podSubnet(0).Addr(), 16)
}

// serviceNetwork is where Kubernetes gives addresses to services: above the pods of the last node.
func (l layout) serviceNetwork() netip.Prefix {
	return netip.PrefixFrom(l.podSubnet(224).Addr(), 19)
}

// kubernetesDir holds what belongs to the cluster and to no machine of it: its authority and the way in for its administrator.
func (l layout) kubernetesDir() string { return filepath.Join(l.state, "kubernetes") }

// etcdDir outlives the machine that etcd runs on, as a disk outlives a power loss.
func (l layout) etcdDir() string { return filepath.Join(l.data, "etcd") }

// mac is a fixed hardware address, so that a node rebuilt under its old address is reached at once. Number 0 is the bridge.
func (l layout) mac(number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'g', 'w', byte(l.base), 0, byte(number)}
}

// marker is how every process of a node that is not in a cgroup yet is found: argument 1 and 2 of our own processes.
func (l layout) marker(node string) []string { return []string{"lab=" + l.id, "node=" + node} }
