package byhand

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"godwit.dev/godwit/test/lab"
)

// What the operator has on each node.
const (
	// dir has the bundle, and below images those of CRIU. It is on a tmpfs, which spares the operator the disk.
	dir = "/run/by-hand"
	// rootfs is the container's root file system, below dir: as on every node, it is on the disk.
	rootfs = "rootfs"
	// imagesIn has a directory for each checkpoint, by its number.
	imagesIn = dir + "/images"
	// containerID is also its cgroup's name.
	containerID = "by-hand"
)

// prepareNode is what an operator types once on each node. The configuration file makes CRIU leave connections out, established
// ones at both ends, and those that nobody has accepted yet: the container's address does not come along, and clients are to
// hear of it at once.
const prepareNode = `set -e
mkdir -p "$1/rootfs" /etc/criu && cd "$1"
ctr -n k8s.io images mount --rw "$2" "$1/rootfs" >/dev/null
printf 'tcp-close\nskip-in-flight\n' >/etc/criu/runc.conf
runc spec`

// prepare makes a bundle on a node.
func prepare(ctx context.Context, n *lab.Node, spec Spec) error {
	if _, err := n.Exec(ctx, "bash", "-c", prepareNode, "bash", dir, spec.Image); err != nil {
		return err
	}
	path := n.Path(dir + "/config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	adapt(&s, spec)
	if b, err = json.Marshal(s); err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	return os.WriteFile(path, b, 0o600)
}

// adapt makes of runc's example a program that can be reached at the node's address.
func adapt(s *specs.Spec, spec Spec) {
	s.Process.Terminal = false
	s.Process.Args = spec.Args
	s.Process.User = specs.User{UID: spec.User, GID: spec.User}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	s.Root.Readonly = false
	s.Linux.CgroupsPath = "/" + containerID
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}

// capabilities are those that a container of a pod has, unless somebody says otherwise (containerd: pkg/oci, defaultUnixCaps).
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
	"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// forget is what an operator types in the end. Nothing in it fails for what is not there.
const forget = `runc delete --force "$2" >/dev/null 2>&1
ctr -n k8s.io images unmount --rm "$1/rootfs" >/dev/null 2>&1
rm -rf "$1" /tmp/hand-* /etc/criu/runc.conf`
