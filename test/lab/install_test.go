package lab

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// installation is Godwit on a cluster whose nodes were bare, put there by the chart and nothing else.
type installation struct {
	lab     *Lab
	cluster *Cluster
	helm    string
	chart   string
	tag     string
}

const installedIn = "godwit-system"

// newInstallation brings up a bare cluster and gives its nodes the image.
func newInstallation(t *testing.T) *installation {
	t.Helper()
	o := newTestCluster(t)
	o.Bare = true
	root := filepath.Dir(filepath.Dir(testDir(t)))
	in := &installation{chart: filepath.Join(root, "contrib", "helm", "godwit"), tag: "test"}
	var err error
	if in.helm, err = HelmBin(t.Context()); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "godwit.tar")
	build := exec.Command("go", "run", "./contrib/image", "-bin", o.Bin, "-out", archive, "-ref", "localhost/godwit:"+in.tag)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("image: %v: %s", err, out)
	}
	in.lab, in.cluster = upCluster(t, o)
	addWeb(t, in.lab)
	for _, n := range in.lab.Nodes() {
		f, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		cmd := n.Command(t.Context(), "ctr", "-n", "k8s.io", "images", "import", "-")
		cmd.Stdin = f
		out, err := cmd.CombinedOutput()
		f.Close()
		if err != nil {
			t.Fatalf("import on node %s: %v: %s", n.Name, err, out)
		}
	}
	return in
}

func testDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// tryHelm runs helm as the cluster's administrator.
func (in *installation) tryHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(6*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, in.helm, append(args, "--namespace", installedIn)...)
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), "KUBECONFIG="+in.cluster.Kubeconfig(), "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (in *installation) runHelm(t *testing.T, args ...string) {
	t.Helper()
	if out, err := in.tryHelm(t, args...); err != nil {
		t.Fatalf("helm %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// settings are the chart's for a lab, where containerd is nodeinit's: it is started again when it ends.
func (in *installation) settings(more ...string) []string {
	args := []string{
		"--set", "image.tag=" + in.tag, "--set", "image.pullPolicy=Never",
		"--set", "containerd.restartCommand={pkill,-x,containerd}",
		"--set", "node.maxOutgoing=2", // one waits for a minute while others move
		"--wait", "--timeout", pace.Stretch(3 * time.Minute).String(),
	}
	return append(args, more...)
}

// nodeFiles lists a node's own file system: every file's name, kind, mode and size, and of containerd's configuration the
// content. What containerd, kubelet and the pod network keep of pods is on other disks or left out.
func nodeFiles(t *testing.T, n *Node) string {
	t.Helper()
	out, err := n.Exec(t.Context(), "find", "/", "-xdev",
		"(", "-path", "/var/log", "-o", "-path", "/var/lib/cni", "-o", "-path", "/root", ")", "-prune", "-o", "-printf", `%p %y %m %l\n`)
	if err != nil {
		t.Fatal(err)
	}
	config, err := n.Exec(t.Context(), "sh", "-c", "sha256sum /etc/containerd/config.toml; ls -d /run/godwit /var/lib/godwit 2>/dev/null; grep godwit /proc/1/mountinfo; true")
	if err != nil {
		t.Fatal(err)
	}
	return string(out) + string(config)
}

// difference is what one of two lists of lines has and the other has not.
func difference(before, after string) string {
	had := map[string]bool{}
	for line := range strings.Lines(before) {
		had[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(after) {
		if !had[line] {
			b.WriteString("+ " + line)
		}
		delete(had, line)
	}
	for line := range had {
		b.WriteString("- " + line)
	}
	return b.String()
}

func restarts(t *testing.T, n *Node, service string) int {
	t.Helper()
	services, err := n.Services()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		if s.Name == service && s.State == nodeinit.Running {
			return s.Restarts
		}
	}
	t.Fatalf("node %s: %s does not run", n.Name, service)
	return 0
}

// TestClusterInstallation installs the chart on bare nodes, uses it, and uninstalls it.
func TestClusterInstallation(t *testing.T) {
	t.Parallel() // it waits most of its time
	in := newInstallation(t)
	c := in.cluster
	before, started := map[string]string{}, map[string]int{}
	for _, n := range in.lab.Nodes() {
		before[n.Name], started[n.Name] = nodeFiles(t, n), restarts(t, n, "containerd")
	}
	wantRestarts := func(more int) {
		t.Helper()
		for _, n := range in.lab.Nodes() {
			if got := restarts(t, n, "containerd") - started[n.Name]; got != more {
				t.Errorf("node %s: containerd was restarted %d times, want %d", n.Name, got, more)
			}
		}
	}

	in.runHelm(t, append([]string{"install", "godwit", in.chart, "--create-namespace"}, in.settings()...)...)
	kubectl(t, c, "", "rollout", "status", "-n", installedIn, "daemonset/godwit-node", "--timeout=0")
	kubectl(t, c, "", "rollout", "status", "-n", installedIn, "deployment/godwit-controller", "--timeout=0")
	wantRestarts(1)

	abandon(t, c)
	t.Run("each node has its own certificate of the cluster", func(t *testing.T) { testNodeCertificates(t, in) })
	t.Run("a node's daemon gets that node's certificate, and nobody another", func(t *testing.T) { testRequests(t, c) })
	t.Run("the service accounts may do no more than they must", func(t *testing.T) { testRights(t, c) })
	t.Run("the daemon's mounts are the host's", func(t *testing.T) {
		for _, n := range in.lab.Nodes() {
			out, err := n.Exec(t.Context(), "sh", "-c", `readlink /proc/1/ns/mnt /proc/$(pgrep -x godwit-node)/ns/mnt | uniq | wc -l`)
			if err != nil || strings.TrimSpace(string(out)) != "1" {
				t.Errorf("node %s: %v namespaces, %v", n.Name, strings.TrimSpace(string(out)), err)
			}
		}
	})
	t.Run("nothing is missing between the nodes", func(t *testing.T) {
		for from, to := range map[string]string{"a": "b", "b": "a"} {
			if out, err := in.lab.Node(from).Exec(t.Context(), "godwitctl", "check", "--to", to); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	})
	t.Run("each node's daemon tells of it", func(t *testing.T) {
		kubectl(t, c, "", "wait", `--for=jsonpath={.metadata.annotations.godwit\.dev/node}`, "node", "--all", "--timeout=170s")
	})
	kubectl(t, c, singlePod("single", "godwit"), "apply", "-f", "-")
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", "single", "--timeout=170s")
	t.Run("a PodMigration moves the pod", func(t *testing.T) { testMove(t, c) })
	t.Run("pods of controllers move", func(t *testing.T) { testOwners(t, in) })
	t.Run("PodMigrations that no node attends to end", func(t *testing.T) { testAbandoned(t, c) })
	kubectl(t, c, "", "delete", "podmigrations", "--all", "--timeout=170s")
	t.Run("an upgrade restarts the daemons, and containerd only if its configuration changes", func(t *testing.T) {
		in.runHelm(t, append([]string{"upgrade", "godwit", in.chart}, in.settings("--set", "node.maxIncoming=5")...)...)
		wantRestarts(1)
	})
	t.Run("an uninstall is refused while a pod needs it", func(t *testing.T) {
		out, err := in.tryHelm(t, "uninstall", "godwit", "--timeout", "2m")
		if err == nil {
			t.Fatalf("uninstalled: %s", out)
		}
		if log := kubectl(t, c, "", "logs", "-n", installedIn, "job/godwit-uninstall"); !strings.Contains(log, "pod default/single") {
			t.Errorf("the reason is not named: %s", log)
		}
		kubectl(t, c, "", "rollout", "status", "-n", installedIn, "daemonset/godwit-node", "--timeout=170s")
	})
	kubectl(t, c, "", "delete", "pods", "--all", "--grace-period=1")

	in.runHelm(t, "uninstall", "godwit", "--wait", "--timeout", pace.Stretch(5*time.Minute).String())
	wantRestarts(2)
	for _, n := range in.lab.Nodes() {
		if d := difference(before[n.Name], nodeFiles(t, n)); d != "" {
			t.Errorf("node %s is not as it was:\n%s", n.Name, d)
		}
	}
	testNothingInCluster(t, c)
}

func testNodeCertificates(t *testing.T, in *installation) {
	authority := kubectl(t, in.cluster, "", "get", "configmap", "-n", installedIn, "godwit-ca", `-o=jsonpath={.data.ca\.crt}`)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(authority)) {
		t.Fatalf("no authority is published: %q", authority)
	}
	for _, n := range in.lab.Nodes() {
		text, err := n.Exec(t.Context(), "cat", "/var/lib/godwit/pki/node.crt")
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{n.Name, n.Addr().String()} {
			if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
				t.Errorf("node %s as %s: %v", n.Name, name, err)
			}
		}
	}
}

// testMove moves the pod with the rights that the chart gives. How pods move is tested in test/e2e.
func testMove(t *testing.T, c *Cluster) {
	from := kubectl(t, c, "", "get", "pod", "single", "-o=jsonpath={.spec.nodeName}")
	to := otherNode(from)
	migrate(t, c, "move", "single", to, "")
	kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "move", "--timeout=170s")
	kubectl(t, c, "", "wait", "--for=delete", "pod", "single", "--timeout=170s")
	if nodes := kubectl(t, c, "", "get", "pods", "-o=jsonpath={.items[*].spec.nodeName}"); nodes != to {
		t.Errorf("the pod went from %s to %s, want %s", from, nodes, to)
	}
	kubectl(t, c, "", "delete", "podmigration", "move")
}

// certificateRequest is one for a node of that name, as an object of the CSR API.
func certificateRequest(t *testing.T, name, node string) string {
	t.Helper()
	dir := t.TempDir()
	csr := filepath.Join(dir, "csr")
	out, err := exec.Command("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", filepath.Join(dir, "key"), "-out", csr, "-outform", "PEM", "-subj", "/CN="+node, "-addext", "subjectAltName=DNS:"+node).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	request, err := exec.Command("base64", "-w0", csr).Output()
	if err != nil {
		t.Fatal(err)
	}
	return "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: " + name + "}\n" +
		"spec: {signerName: godwit.dev/peer, usages: [client auth, server auth], request: " + string(request) + "}\n"
}

// testRequests asks as an administrator, who may do everything but be a node, and by the token of node a's daemon.
func testRequests(t *testing.T, c *Cluster) {
	pod := kubectl(t, c, "", "get", "pods", "-n", installedIn, "-l=app.kubernetes.io/component=node", "--field-selector=spec.nodeName=a", "-o=name")
	token := kubectl(t, c, "", "create", "token", "-n", installedIn, "godwit-node",
		"--bound-object-kind=Pod", "--bound-object-name="+strings.TrimPrefix(pod, "pod/"))
	daemon := []string{"--kubeconfig=/dev/null", "--server=" + c.Server(), "--insecure-skip-tls-verify", "--token=" + token}
	for name, tt := range map[string]struct {
		as     []string
		node   string
		signed bool
	}{
		"administrator": {nil, "a", false},
		"own":           {daemon, "a", true},
		"other":         {daemon, "b", false},
	} {
		kubectl(t, c, certificateRequest(t, name, tt.node), append([]string{"create", "-f", "-"}, tt.as...)...)
		want := "Denied"
		if tt.signed {
			want = "Approved"
		}
		kubectl(t, c, "", "wait", "--for=condition="+want, "csr", name, "--timeout=170s")
		if tt.signed {
			kubectl(t, c, "", "wait", "--for=jsonpath={.status.certificate}", "csr", name, "--timeout=170s")
		} else if cert := kubectl(t, c, "", "get", "csr", name, "-o=jsonpath={.status.certificate}"); cert != "" {
			t.Errorf("%s: signed all the same", name)
		}
		kubectl(t, c, "", "delete", "csr", name)
	}
}

// testRights asks the cluster what the two service accounts may do beyond what they are for.
func testRights(t *testing.T, c *Cluster) {
	for account, things := range map[string][]string{
		"godwit-node": {"get secrets", "get secrets -n godwit-system", "create secrets -n godwit-system", "create pods --subresource=exec", "update nodes", "delete nodes",
			"approve signers.certificates.k8s.io/godwit.dev/peer", "update certificatesigningrequests --subresource=approval", "get configmaps", "create daemonsets", "delete podmigrations"},
		"godwit-controller": {"get secrets", "list secrets -n godwit-system", "get secrets/other -n godwit-system", "create pods", "delete pods", "update nodes",
			"sign signers.certificates.k8s.io/kubernetes.io/kube-apiserver-client", "create validatingwebhookconfigurations", "update validatingwebhookconfigurations/other"},
	} {
		for _, thing := range things {
			args := append([]string{"auth", "can-i", "--as=system:serviceaccount:" + installedIn + ":" + account}, strings.Fields(thing)...)
			if out, err := c.Kubectl(t.Context(), "", args...); err == nil || strings.TrimSpace(string(out)) != "no" {
				t.Errorf("%s may %s: %s", account, thing, out)
			}
		}
	}
}

// testNothingInCluster fails if anything of Godwit is left of the cluster's objects but the namespace, which helm leaves.
func testNothingInCluster(t *testing.T, c *Cluster) {
	t.Helper()
	for kinds, want := range map[string]string{
		"runtimeclasses": "runtimeclass.node.k8s.io/runc",
		"csr":            "",
		"pods,services,daemonsets,deployments,replicasets,jobs,secrets,roles,rolebindings,leases": "",
		"configmaps":      "configmap/kube-root-ca.crt",
		"serviceaccounts": "serviceaccount/default",
	} {
		// What others own the cluster removes after them.
		ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(time.Minute))
		err := until(ctx, func() error {
			if got := kubectl(t, c, "", "get", kinds, "-n", installedIn, "-o=name"); got != want {
				return fmt.Errorf("%s: %q, want %q", kinds, got, want)
			}
			return nil
		})
		cancel()
		if err != nil {
			t.Error(err)
		}
	}
	if said := kubectl(t, c, "", "get", "nodes", "-o=yaml"); strings.Contains(said, "godwit.dev/") {
		t.Errorf("left at the nodes: %s", said)
	}
	all := kubectl(t, c, "", "get", "crd,clusterroles,clusterrolebindings,validatingwebhookconfigurations,mutatingwebhookconfigurations", "-o=name")
	for line := range strings.Lines(all) {
		if strings.Contains(line, "godwit") {
			t.Errorf("left: %s", line)
		}
	}
}

// TestClusterManifestsAreTheCharts compares what kubectl apply -k makes with what the chart makes.
func TestClusterManifestsAreTheCharts(t *testing.T) {
	if os.Getenv(envKubernetes) != "1" {
		t.Skipf("builds helm, with %s=1 only", envKubernetes)
	}
	helm, err := HelmBin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Dir(filepath.Dir(testDir(t)))
	cmd := exec.Command(filepath.Join(root, "hack", "manifests.sh"), "--check", helm)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
