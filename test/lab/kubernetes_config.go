package lab

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// Paths in machines of a cluster.
const (
	kubernetesBinDir = "/opt/kubernetes/bin"
	kubernetesConf   = "/etc/kubernetes"
	// ManifestDir is where a node's kubelet looks for static pods.
	ManifestDir = kubernetesConf + "/manifests"
)

const apiServerPort = 6443

// A kubelet tells every second that its node is there; one that has not for gracePeriod is NotReady. Kubernetes's own
// defaults, 10 and 50 s, are for clusters that nobody waits for. Shorter, and a busy machine loses nodes that are well.
const (
	nodeLease   = 4 * time.Second // kubelet renews a lease after a quarter of its duration
	gracePeriod = 16 * time.Second
)

func (l layout) apiServer() netip.AddrPort {
	return netip.AddrPortFrom(l.nodeAddr(controlIndex), apiServerPort)
}

func (l layout) apiServerURL() string { return "https://" + l.apiServer().String() }

// administrator may do everything, by the group that Kubernetes starts out with.
var administrator = subject{name: "admin", group: "system:masters"}

// controlServices are the control plane, in the order in which they need each other. Leaders are not elected: there is one of each.
func (l layout) controlServices() []nodeinit.Service {
	program := func(name string, args ...string) []string {
		return append([]string{filepath.Join(kubernetesBinDir, name)}, args...)
	}
	conf := func(name string) string { return filepath.Join(kubernetesConf, name) }
	return []nodeinit.Service{
		// Without fsync: the file system outlives every process that a test kills.
		{Name: "etcd", Notify: true, Args: program("etcd", "--name=lab", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=lab=http://127.0.0.1:2380")},
		{Name: "kube-apiserver", Notify: true, After: "etcd", Args: program("kube-apiserver",
			"--etcd-servers=http://127.0.0.1:2379",
			"--advertise-address="+l.apiServer().Addr().String(), fmt.Sprintf("--secure-port=%d", apiServerPort),
			"--tls-cert-file="+conf("apiserver.crt"), "--tls-private-key-file="+conf("apiserver.key"), "--client-ca-file="+conf("ca.crt"),
			"--kubelet-certificate-authority="+conf("ca.crt"), "--kubelet-client-certificate="+conf("kubelet-client.crt"),
			"--kubelet-client-key="+conf("kubelet-client.key"), "--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+conf("sa.key"),
			"--service-account-signing-key-file="+conf("sa.key"), "--service-cluster-ip-range="+l.serviceNetwork().String(),
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
			// Webhooks are reached by their pods' addresses: no kube-proxy runs on this machine.
			"--enable-aggregator-routing")},
		{Name: "kube-controller-manager", After: "kube-apiserver", Args: program("kube-controller-manager",
			"--kubeconfig="+conf("controller-manager.kubeconfig"), "--leader-elect=false", "--use-service-account-credentials",
			"--service-account-private-key-file="+conf("sa.key"), "--root-ca-file="+conf("ca.crt"),
			"--cluster-signing-cert-file="+conf("ca.crt"), "--cluster-signing-key-file="+conf("ca.key"),
			"--allocate-node-cidrs=false", "--node-monitor-period=1s", "--node-monitor-grace-period="+pace.Stretch(gracePeriod).String(),
			// Instead of 15 s: a claim that came before its volume is looked at again after that.
			"--pvclaimbinder-sync-period=1s")},
		{Name: "kube-scheduler", After: "kube-apiserver", Args: program("kube-scheduler",
			"--kubeconfig="+conf("scheduler.kubeconfig"), "--leader-elect=false")},
	}
}

// workerServices are what a node of a cluster runs beside its containerd.
func (l layout) workerServices(s nodeState) []nodeinit.Service {
	return []nodeinit.Service{
		{Name: "kubelet", After: "containerd", Args: []string{
			filepath.Join(kubernetesBinDir, "kubelet"), "--config=" + filepath.Join(kubernetesConf, "kubelet.yaml"),
			"--kubeconfig=" + filepath.Join(kubernetesConf, "kubelet.kubeconfig"),
			"--hostname-override=" + s.Name, "--node-ip=" + l.nodeAddr(s.Index).String()}},
		{Name: "kube-proxy", Args: []string{
			filepath.Join(kubernetesBinDir, "kube-proxy"), "--config=" + filepath.Join(kubernetesConf, "kube-proxy.yaml")}},
	}
}

// kubeletConfig leaves to Kubernetes what it can. Nothing is evicted and no image removed for want of a disk that is the
// whole machine's, and OOM scores are not lowered, which takes CAP_SYS_RESOURCE. Every second kubelet looks whether the cluster
// has to be told of its node, instead of every ten: a volume is neither mounted nor detached before it knows who uses it.
func kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]s/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: %[1]s/kubelet.crt
tlsPrivateKeyFile: %[1]s/kubelet.key
containerRuntimeEndpoint: unix://%[2]s
staticPodPath: %[3]s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
nodeLeaseDurationSeconds: %[4]d
nodeStatusUpdateFrequency: 1s
nodeStatusReportFrequency: 1m
serializeImagePulls: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%, imagefs.inodesFree: 1%%}
`, kubernetesConf, containerdSocket, ManifestDir, int(pace.Stretch(nodeLease).Seconds()))
}

// proxyConfig has kube-proxy make nftables rules, and leave alone the settings of connection tracking, which are the host's.
func (l layout) proxyConfig(s nodeState) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
clientConnection: {kubeconfig: %s/kube-proxy.kubeconfig}
clusterCIDR: %s
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, s.Name, kubernetesConf, l.podNetwork())
}

// secrets collects a machine's files with keys, and the first error of making one.
type secrets struct {
	authority *authority
	server    string
	files     []nodeinit.File
	err       error
}

func (s *secrets) file(name string, content []byte) {
	s.files = append(s.files, nodeinit.File{Path: filepath.Join(kubernetesConf, name), Content: string(content), Mode: 0o600})
}

func (s *secrets) certificate(name string, of subject) {
	p, err := s.authority.issue(of)
	s.file(name+".crt", p.cert)
	s.file(name+".key", p.key)
	s.keep(err)
}

func (s *secrets) kubeconfig(name string, of subject) {
	content, err := s.authority.kubeconfig(s.server, of)
	s.file(name+".kubeconfig", content)
	s.keep(err)
}

func (s *secrets) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}

// controlFiles are what the control plane reads.
func (l *Lab) controlFiles() ([]nodeinit.File, error) {
	s := &secrets{authority: l.authority, server: l.apiServerURL()}
	s.file("ca.crt", l.authority.certPEM)
	s.file("ca.key", l.authority.keyPEM)
	s.file("sa.key", l.authority.accounts)
	s.certificate("apiserver", subject{
		name: "kube-apiserver", usage: x509.ExtKeyUsageServerAuth,
		dns: []string{controlName, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		// The first address of services is the API server's own.
		addrs: []netip.Addr{l.apiServer().Addr(), l.serviceNetwork().Addr().Next(), netip.AddrFrom4([4]byte{127, 0, 0, 1})},
	})
	s.certificate("kubelet-client", subject{name: "kube-apiserver-kubelet-client", group: "system:masters", usage: x509.ExtKeyUsageClientAuth})
	s.kubeconfig("controller-manager", subject{name: "system:kube-controller-manager"})
	s.kubeconfig("scheduler", subject{name: "system:kube-scheduler"})
	s.kubeconfig("csi-attacher", subject{name: "csi-attacher", group: "system:masters"})
	return s.files, s.err
}

// workerFiles are what kubelet and kube-proxy of a node read.
func (l *Lab) workerFiles(n nodeState) ([]nodeinit.File, error) {
	s := &secrets{authority: l.authority, server: l.apiServerURL()}
	s.file("ca.crt", l.authority.certPEM)
	s.certificate("kubelet", subject{
		name: "system:node:" + n.Name, group: "system:nodes", usage: x509.ExtKeyUsageServerAuth,
		dns: []string{n.Name}, addrs: []netip.Addr{l.nodeAddr(n.Index)},
	})
	s.kubeconfig("kubelet", subject{name: "system:node:" + n.Name, group: "system:nodes"})
	s.kubeconfig("kube-proxy", subject{name: "system:kube-proxy"})
	s.kubeconfig("godwit-node", subject{name: "godwit-node", group: "system:masters"})
	s.file("kubelet.yaml", []byte(kubeletConfig()))
	s.file("kube-proxy.yaml", []byte(l.proxyConfig(n)))
	return append(s.files,
		nodeinit.File{Path: ManifestDir + "/.keep", Mode: 0o644}, // kubelet passes over names that begin so
		nodeinit.File{Path: "/etc/machine-id", Content: l.machineID(n.Name) + "\n", Mode: 0o444},
	), s.err
}

// machineID is another for each node: what a cluster is told of them apart from their names.
func (l layout) machineID(node string) string {
	sum := sha256.Sum256([]byte(l.id + "/" + node))
	return hex.EncodeToString(sum[:16])
}

// kernelSettings are those of the whole machine that kubelet sets (setupKernelTunables in its container_manager_linux.go).
// A node shows it files in their place that say what it wants: it then leaves the machine's as they are.
var kernelSettings = map[string]string{
	"vm/overcommit_memory":     "1",
	"vm/panic_on_oom":          "0",
	"kernel/panic":             "10",
	"kernel/panic_on_oops":     "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}
