package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// Paths in a node, as an installation has them.
const (
	nodeConfigFile   = "/etc/godwit/node.toml"
	pkiDirInNode     = "/etc/godwit/pki"
	containerdSocket = "/run/containerd/containerd.sock"
)

// metricsPort is where the nodes' daemons serve their metrics.
const metricsPort = 7441

// pauseRef is the image of every sandbox. It is made on the machine: no registry is needed.
const pauseRef = "localhost/pause:1"

// containerdConfig is the same on every node. OOM scores are only ever raised: lowering one takes CAP_SYS_RESOURCE, which
// machines in a sandbox do not have.
const containerdConfig = `version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '` + pauseRef + `'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'
`

// godwitConfig is what an installation adds to it.
const godwitConfig = `
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.godwit]
  runtime_type = 'io.containerd.godwit.v2'
  pod_annotations = ['godwit.dev/*']
  container_annotations = ['godwit.dev/*']
`

// cniConfig gives pods addresses of subnet on a bridge whose routes the other nodes and the host have; no address is ever
// translated.
func cniConfig(subnet netip.Prefix) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, subnet)
}

// changingFiles are the node's files that depend on which other nodes there are.
func (l *Lab) changingFiles(s nodeState, all []nodeState) []nodeinit.File {
	hosts := "127.0.0.1 localhost\n"
	for _, n := range all {
		hosts += fmt.Sprintf("%s %s\n", l.nodeAddr(n.Index), n.Name)
	}
	files := []nodeinit.File{{Path: "/etc/hosts", Content: hosts, Mode: 0o644}}
	if l.bare {
		return files
	}
	return append(files, nodeinit.File{Path: nodeConfigFile, Content: l.nodeConfig(s, all, l.kubernetes != ""), Mode: 0o644})
}

// nodeConfig is godwit-node's configuration.
func (l layout) nodeConfig(s nodeState, all []nodeState, kubernetes bool) string {
	var b strings.Builder
	set := func(key, value string) { fmt.Fprintf(&b, "%s = %q\n", key, value) }
	set("node_name", s.Name)
	set("listen", l.peerAddr(s.Index))
	set("advertise", l.peerAddr(s.Index))
	set("socket", "/run/godwit/node.sock")
	set("containerd", containerdSocket)
	set("pki_dir", pkiDirInNode)
	set("state_dir", "/run/godwit")
	set("store_limit", storeLimit())
	set("stuck_after", pace.Stretch(10*time.Second).String())
	set("metrics_listen", netip.AddrPortFrom(l.nodeAddr(s.Index), metricsPort).String())
	b.WriteString("\n[peers]\n")
	for _, n := range all {
		set(n.Name, l.peerAddr(n.Index))
	}
	if kubernetes {
		b.WriteString("\n[kubernetes]\nenabled = true\n")
		set("signer", "")
		set("kubeconfig", filepath.Join(kubernetesConf, "godwit-node.kubeconfig"))
	}
	return b.String()
}

func (l layout) peerAddr(i int) string {
	return netip.AddrPortFrom(l.nodeAddr(i), PeerPort).String()
}

// storeLimit is half of the machine's memory: a page that is moved is on both nodes, which share it.
func storeLimit() string {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "1GiB"
	}
	mib := uint64(info.Totalram) * uint64(info.Unit) / 2 >> 20
	return fmt.Sprintf("%dMiB", max(256, mib))
}
