package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// What the operator has on each node.
const (
	// handDir has the bundle, and below imagesIn the images. It is on a tmpfs, which spares the operator the disk.
	handDir = "/run/enginebench"
	// imagesIn has a directory for each checkpoint, by its number.
	imagesIn = handDir + "/images"
	// containerID is also its cgroup's name.
	containerID = "by-hand"
)

// prepareNode is what an operator types once on each node. The configuration file makes CRIU leave established connections
// out, at both ends: the container's address does not come along, and clients are to hear of it at once.
const prepareNode = `set -e
mkdir -p "$1/rootfs" /etc/criu && cd "$1"
ctr -n k8s.io images mount --rw "$2" "$1/rootfs" >/dev/null
echo tcp-close >/etc/criu/runc.conf
runc spec`

// prepare makes a bundle of the image on a node.
func prepare(ctx context.Context, n *lab.Node, image string) error {
	if _, err := n.Exec(ctx, "bash", "-c", prepareNode, "bash", handDir, image); err != nil {
		return err
	}
	path := n.Path(handDir + "/config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	var s specs.Spec
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	adapt(&s)
	if b, err = json.Marshal(s); err != nil {
		return fmt.Errorf("bundle on node %s: %w", n.Name, err)
	}
	return os.WriteFile(path, b, 0o600)
}

// adapt makes of runc's example a redis that can be reached at the node's address.
func adapt(s *specs.Spec) {
	s.Process.Terminal = false
	s.Process.Args = trial.RedisCommand
	s.Root.Readonly = false
	s.Linux.CgroupsPath = "/" + containerID
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
}
