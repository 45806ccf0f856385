package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// envKubernetes set to 1 says that tests may take the time to start clusters, and to build Kubernetes if nobody has.
const envKubernetes = "GODWIT_KUBERNETES"

// newTestCluster gives the options of a cluster that is the test's own and is down when the test ends. It has the project's
// binaries, which must have been built.
func newTestCluster(t *testing.T) Options {
	t.Helper()
	if os.Getenv(envKubernetes) != "1" {
		t.Skipf("starts a cluster, with %s=1 only; see make e2e-kubernetes", envKubernetes)
	}
	o := newTestLab(t)
	o.Kubernetes = true
	var err error
	if o.Bin, err = FindBin(); err != nil {
		t.Fatal(err)
	}
	return o
}

func upCluster(t *testing.T, o Options) (*Lab, *Cluster) {
	t.Helper()
	start := time.Now()
	l := upTest(t, o)
	c := l.Kubernetes()
	if c == nil || c.Control() == nil {
		t.Fatal("the lab has no cluster")
	}
	t.Logf("up after %s", time.Since(start).Round(10*time.Millisecond))
	explain(t, l)
	return l, c
}

// addWeb gives the nodes the image "web", of testdata/web.
func addWeb(t *testing.T, l *Lab) {
	t.Helper()
	root := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(root, "web"), "./testdata/web")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	if _, err := l.AddImage(t.Context(), ImageSpec{Name: "web", Dir: root, Entrypoint: []string{"/web"}}); err != nil {
		t.Fatal(err)
	}
}

// kubectl fails the test with what kubectl says, and with how things stand then.
func kubectl(t *testing.T, c *Cluster, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(3*time.Minute))
	defer cancel()
	out, err := c.Kubectl(ctx, stdin, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, c.tell())
	}
	return strings.TrimSpace(string(out))
}

// webPod is a pod's specification, as it stands below "spec:" with the given indentation.
func webPod(indent string, more ...string) string {
	lines := append([]string{
		"terminationGracePeriodSeconds: 0",
		"containers:",
		"- {name: web, image: 'localhost/web:latest', imagePullPolicy: Never, ports: [{containerPort: 8080}], env: [",
		// CRIU dumps no multipath TCP, which Go listens by.
		"    {name: GODEBUG, value: multipathtcp=0}]}",
	}, more...)
	return indent + strings.Join(lines, "\n"+indent) + "\n"
}

func singlePod(name, class string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\nspec:\n" +
		webPod("  ", "runtimeClassName: "+class)
}

// pairBehindService is a Deployment of two, on two nodes, and a Service of both.
var pairBehindService = `apiVersion: apps/v1
kind: Deployment
metadata: {name: pair}
spec:
  replicas: 2
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
` + webPod("      ",
	"affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [",
	"  {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: pair}}}]}}",
	"tolerations: [{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 600}]") + `---
apiVersion: v1
kind: Service
metadata: {name: pair}
spec:
  type: NodePort
  selector: {app: pair}
  ports: [{port: 80, targetPort: 8080}]
`

// fetch gets the body at address over HTTP, on a connection of its own.
func fetch(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return strings.TrimSpace(string(body)), err
}

// wantAnswers asks until each of names has answered.
func wantAnswers(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), address string, names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(2*time.Minute))
	defer cancel()
	heard := map[string]bool{}
	var last error
	err := poll(ctx, func() (bool, error) {
		name, err := fetch(ctx, dial, address)
		if err != nil {
			last = err
			return false, nil
		}
		heard[name] = true
		return slices.Equal(sortedKeys(heard), slices.Sorted(slices.Values(names))), nil
	})
	if err != nil {
		t.Errorf("%s was answered by %v, want %v (last failure: %v)", address, sortedKeys(heard), names, last)
	}
}

func kernelSetting(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name := range kernelSettings {
		b, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(b)
	}
	return all
}

func TestKubernetes(t *testing.T) {
	o := newTestCluster(t)
	before := kernelSetting(t)
	l, c := upCluster(t, o)
	b := l.Node("b")
	addWeb(t, l)

	t.Run("both nodes are Ready, and the control plane's machine is none of them", func(t *testing.T) {
		if got := kubectl(t, c, "", "get", "nodes", "-o=jsonpath={.items[*].metadata.name}"); got != "a b" {
			t.Errorf("nodes %q", got)
		}
		kubectl(t, c, "", "wait", "--for=condition=Ready", "node", "--all", "--timeout=170s")
		if names := nodeNames(l); !slices.Equal(names, []string{"a", "b"}) {
			t.Errorf("nodes of the lab: %v", names)
		}
	})
	t.Run("a pod runs in each runtime class", func(t *testing.T) { testRuntimeClasses(t, l, c) })
	t.Run("a pod that the cluster does not know is refused", func(t *testing.T) {
		if _, err := b.RunPod(t.Context(), PodSpec{Name: "p", Containers: []ContainerSpec{{Image: "web"}}}); !errors.Is(err, ErrCluster) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a Service of two pods is answered by both, from every node and the host", func(t *testing.T) { testService(t, l, c) })
	t.Run("exec, logs and port-forward reach a pod", func(t *testing.T) { testAccess(t, c) })
	t.Run("status tells where the cluster is", func(t *testing.T) { testClusterStatus(t, o) })
	t.Run("up again keeps pods, asked for Kubernetes or not", func(t *testing.T) {
		pods := podIdentities(t, c)
		for _, o := range []Options{o, {Dir: o.Dir, Bin: o.Bin}} {
			if upTest(t, o).Kubernetes() == nil {
				t.Error("the lab is a cluster no more")
			}
		}
		if now := podIdentities(t, c); now != pods {
			t.Errorf("pods were\n%s\nand are\n%s", pods, now)
		}
	})
	t.Run("the control plane is killed and comes back with what it knew", func(t *testing.T) { testControlPlaneDies(t, o, c) })
	t.Run("a node is killed, and is NotReady until it is built again", func(t *testing.T) { testNodeDies(t, o, b) })
	t.Run("a third node joins", func(t *testing.T) {
		more := o
		more.Nodes = 3
		l, c := upCluster(t, more)
		kubectl(t, c, "", "wait", "--for=condition=Ready", "node/c", "--timeout=170s")
		service := kubectl(t, c, "", "get", "service", "pair", "-o=jsonpath={.spec.clusterIP}")
		wantAnswers(t, l.Node("c").Dial, service+":80", pairNames(t, c))
	})
	t.Run("the machine's own settings are what they were", func(t *testing.T) {
		for name, value := range kernelSetting(t) {
			if value != before[name] {
				t.Errorf("%s is %q, was %q", name, value, before[name])
			}
		}
	})
	t.Run("down leaves nothing", func(t *testing.T) {
		if err := Down(t.Context(), o.Dir); err != nil {
			t.Fatal(err)
		}
		wantNoTrace(t, o)
	})
}

func nodeNames(l *Lab) []string {
	var names []string
	for _, n := range l.Nodes() {
		names = append(names, n.Name)
	}
	return names
}

func testRuntimeClasses(t *testing.T, l *Lab, c *Cluster) {
	for _, class := range RuntimeClasses {
		kubectl(t, c, singlePod("single-"+class, class), "apply", "-f", "-")
	}
	for _, class := range RuntimeClasses {
		name := "single-" + class
		kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", name, "--timeout=170s")
		node := l.Node(kubectl(t, c, "", "get", "pod", name, "-o=jsonpath={.spec.nodeName}"))
		pod, err := node.FindPod(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if pod.Handler != class {
			t.Errorf("%s runs by %s", name, pod.Handler)
		}
		wantAnswers(t, fromHost, pod.IP+":8080", []string{name})
	}
}

func pairNames(t *testing.T, c *Cluster) []string {
	t.Helper()
	return strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=pair", "--field-selector=status.phase=Running", "-o=jsonpath={.items[*].metadata.name}"))
}

func testService(t *testing.T, l *Lab, c *Cluster) {
	kubectl(t, c, pairBehindService, "apply", "-f", "-")
	kubectl(t, c, "", "rollout", "status", "deployment", "pair", "--timeout=170s")
	names := pairNames(t, c)
	if len(names) != 2 {
		t.Fatalf("pods %v", names)
	}
	if nodes := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=pair", "-o=jsonpath={.items[*].spec.nodeName}")); len(nodes) != 2 || nodes[0] == nodes[1] {
		t.Errorf("pods on %v", nodes)
	}
	address := strings.Fields(kubectl(t, c, "", "get", "service", "pair", "-o=jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}"))
	for _, n := range l.Nodes() {
		wantAnswers(t, n.Dial, address[0]+":80", names)
		wantAnswers(t, fromHost, fmt.Sprintf("%s:%s", n.Addr(), address[1]), names)
	}
}

func testAccess(t *testing.T, c *Cluster) {
	if got := kubectl(t, c, "", "exec", "single-godwit", "--", "/web", "hello"); got != "hello" {
		t.Errorf("exec: %q", got)
	}
	if got := kubectl(t, c, "", "logs", "single-godwit"); got != "listening on single-godwit" {
		t.Errorf("logs: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forward := c.KubectlCommand(ctx, "port-forward", "pod/single-runc", ":8080")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer forward.Wait()
	defer cancel()
	var port int
	if _, err := fmt.Fscanf(out, "Forwarding from 127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	wantAnswers(t, fromHost, fmt.Sprint("127.0.0.1:", port), []string{"single-runc"})
}

func testClusterStatus(t *testing.T, o Options) {
	l, err := Open(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Nodes) != 2 || s.Kubernetes == nil || !s.Kubernetes.Running || s.Kubernetes.Error != "" {
		t.Fatalf("status %+v, %+v", s, s.Kubernetes)
	}
	var names []string
	for _, service := range s.Kubernetes.Services {
		names = append(names, service.Name)
		// The controller manager gives an API server ten seconds (cmd/kube-controller-manager/app, Run), which a slow machine needs.
		if service.State != nodeinit.Running || service.Restarts > 1 || service.Restarts > 0 && service.Name != "kube-controller-manager" {
			t.Errorf("%s is %v, ended %d times: %s", service.Name, service.State, service.Restarts, service.LastExit)
		}
	}
	if want := []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "storage", "csi-attacher"}; !slices.Equal(names, want) {
		t.Errorf("services of the control plane: %v, want %v", names, want)
	}
	cmd := exec.Command(filepath.Join(s.Kubernetes.Bin, "kubectl"), "--kubeconfig", s.Kubernetes.Kubeconfig, "version")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("kubectl by what status says: %v: %s", err, out)
	}
}

// podIdentities changes when a pod is made again or a container of one restarts.
func podIdentities(t *testing.T, c *Cluster) string {
	t.Helper()
	return kubectl(t, c, "", "get", "pods", "-o=jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].containerID}{'\\n'}{end}")
}

func testControlPlaneDies(t *testing.T, o Options, c *Cluster) {
	pods := podIdentities(t, c)
	for _, service := range []string{"kube-apiserver", "etcd"} {
		if !c.Control().KillService(service) {
			t.Fatalf("no %s to kill", service)
		}
		ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(3*time.Minute))
		defer cancel()
		if err := until(ctx, func() error { _, err := c.Kubectl(ctx, "", "get", "--raw=/readyz"); return err }); err != nil {
			t.Fatalf("after %s was killed: %v", service, err)
		}
	}
	if err := c.Control().Kill(); err != nil {
		t.Fatal(err)
	}
	if c.Control().Alive() {
		t.Fatal("the control plane's machine is alive")
	}
	_, c = upCluster(t, o)
	if now := podIdentities(t, c); now != pods {
		t.Errorf("pods were\n%s\nand are\n%s", pods, now)
	}
}

func testNodeDies(t *testing.T, o Options, n *Node) {
	c := n.lab.Kubernetes()
	start := time.Now()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "", "wait", "--for=condition=Ready=Unknown", "node", n.Name, "--timeout=170s")
	t.Logf("NotReady after %s", time.Since(start).Round(10*time.Millisecond))
	kubectl(t, c, "", "wait", "--for=condition=Ready", "node", "a", "--timeout=170s")
	l, c := upCluster(t, o)
	kubectl(t, c, "", "wait", "--for=condition=Ready", "node", n.Name, "--timeout=170s")
	kubectl(t, c, "", "rollout", "status", "deployment", "pair", "--timeout=170s")
	service := kubectl(t, c, "", "get", "service", "pair", "-o=jsonpath={.spec.clusterIP}")
	wantAnswers(t, l.Node(n.Name).Dial, service+":80", pairNames(t, c))
}
