package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/kubernetes"
	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/pace"
)

// user speaks to the API server as a cluster's administrator.
func (k *kube) user() client.WithWatch {
	k.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig())
	if err != nil {
		k.t.Fatal(err)
	}
	config.QPS = -1 // as often as the test asks
	scheme, err := kubernetes.Scheme()
	if err != nil {
		k.t.Fatal(err)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		k.t.Fatal(err)
	}
	return c
}

// traveller is a pod that PodMigrations move, under whatever name and on whatever node it is. It counts in files, and a client
// writes to the redis in it.
type traveller struct {
	k    *kube
	t    *testing.T // of what happens to it now
	user client.WithWatch
	app  string // a label's value, and in the arguments of its processes
	pod  string
	node *lab.Node
	w    *writer

	counts map[string]int // lines of files, when they were last looked at
}

// travellerLoad is how many keys of 1 KiB a traveller's redis holds, and how many are written a second.
type travellerLoad struct {
	keys uint32
	rate int
}

// smallLoad is of pods that are quickly moved, sceneLoad of those about which something is to be seen.
var smallLoad, sceneLoad = travellerLoad{4_000, writeRate}, travellerLoad{sceneKeys, writeRate}

// traveller runs one on a node. It is gone when the test ends, with the PodMigrations of its label.
func (k *kube) traveller(app string, node *lab.Node, l travellerLoad) *traveller {
	k.t.Helper()
	return k.travellerOf(counter{app: app, node: node.Name}.pod(app), app, node, l)
}

// travellerOf runs one that a manifest describes: the pod has the app's name and label, and a container that runs ticksOf.
func (k *kube) travellerOf(manifest, app string, node *lab.Node, l travellerLoad) *traveller {
	k.t.Helper()
	v := &traveller{k: k, t: k.t, user: k.user(), app: app, pod: app, node: node}
	k.t.Cleanup(func() { v.remove() })
	k.kubectl(manifest, "apply", "-f", "-")
	k.ready(app)
	v.write(l)
	v.look()
	return v
}

// write fills the pod's redis and begins to write to it.
func (v *traveller) write(l travellerLoad) {
	v.t.Helper()
	v.w = &writer{t: v.t, redis: load.NewRedis(v.address(v.get().Status.PodIP), l.keys), begun: time.Now()}
	if err := v.w.redis.Fill(within(v.t, 3*time.Minute)); err != nil {
		v.t.Fatal(err)
	}
	v.w.writeAt(l.rate)
	v.t.Cleanup(func() { v.w.stop() })
	v.w.awaitWrites(l.rate / 4)
}

func (v *traveller) address(ip string) string { return net.JoinHostPort(ip, redisPort) }

// get is the pod as it is.
func (v *traveller) get() *corev1.Pod {
	v.t.Helper()
	pod := new(corev1.Pod)
	if err := v.user.Get(within(v.t, time.Minute), client.ObjectKey{Namespace: "default", Name: v.pod}, pod); err != nil {
		v.t.Fatal(err)
	}
	return pod
}

// remove deletes everything of it.
func (v *traveller) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(6*time.Minute))
	defer cancel()
	for _, args := range [][]string{
		{"delete", "podmigration", "-l", "app=" + v.app, "--timeout=170s"},
		{"delete", "pod", "-l", "app=" + v.app, "--force", "--grace-period=0", "--timeout=170s"},
	} {
		if _, err := v.k.Kubectl(ctx, "", args...); err != nil {
			v.t.Error(err)
		}
	}
}

// in is the traveller in a part of its test.
func (v *traveller) in(t *testing.T) *traveller {
	k, w := *v.k, *v.w
	k.t, w.t = t, t
	v.k, v.t, v.w = &k, t, &w
	k.explain()
	return v
}

// elsewhere is the node on which it is not.
func (v *traveller) elsewhere() *lab.Node {
	if v.node.Name == v.k.a.Name {
		return v.k.b
	}
	return v.k.a
}

// slowMove gives a test some seconds before the commit, briskMove one or two. crawl is of moves that are broken off, or held up,
// before it: a test that is late must not find it done.
var slowMove, briskMove, crawl = atMost("3Mi"), atMost("10Mi"), atMost("1Mi")

func atMost(bandwidth string) func(*v1alpha1.PodMigration) {
	b := resource.MustParse(bandwidth)
	return func(m *v1alpha1.PodMigration) { m.Spec.Bandwidth, m.Spec.Compression = &b, v1alpha1.CompressionNone }
}

// ask makes a PodMigration of it to the other node.
func (v *traveller) ask(change ...func(*v1alpha1.PodMigration)) *v1alpha1.PodMigration {
	v.t.Helper()
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", GenerateName: v.app + "-", Labels: map[string]string{"app": v.app}},
		Spec:       v1alpha1.PodMigrationSpec{PodName: v.pod, TargetNode: v.elsewhere().Name},
	}
	for _, f := range change {
		f(m)
	}
	if err := v.user.Create(within(v.t, time.Minute), m); err != nil {
		v.t.Fatal(err)
	}
	return m
}

// settled waits for the end of a migration and sees that there is one pod, where the migration's end says, which has lost
// nothing. It returns nil if the object is gone.
func (v *traveller) settled(m *v1alpha1.PodMigration) *v1alpha1.PodMigration {
	v.t.Helper()
	end := v.await(m, "the end", isSettled)
	v.find()
	if end != nil {
		v.t.Logf("%s: %s", end.Status.Phase, end.Status.Message)
		if came := v.node.Name == end.Status.DestinationNode && v.node.Name != end.Status.SourceNode; came != (end.Status.Phase == v1alpha1.PhaseSucceeded) {
			v.t.Errorf("the PodMigration is %s (%s), and the pod on node %s", end.Status.Phase, end.Status.Message, v.node.Name)
		}
	}
	v.goesOn()
	v.k.until("both nodes without anything of the migration", func() bool { return len(v.k.leftOf("pm-"+string(m.UID))) == 0 })
	return end
}

// pods are those with its label.
func (v *traveller) pods() []corev1.Pod {
	v.t.Helper()
	all := new(corev1.PodList)
	if err := v.user.List(within(v.t, time.Minute), all, client.InNamespace("default"), client.MatchingLabels{"app": v.app}); err != nil {
		v.t.Fatal(err)
	}
	return all.Items
}

// find sees that there is one pod, ready, never restarted and without marks, and which it is.
func (v *traveller) find() {
	v.t.Helper()
	var pods []corev1.Pod
	v.k.until("one pod "+v.app+" that is ready", func() bool {
		pods = v.pods()
		return len(pods) == 1 && isReady(&pods[0])
	})
	pod := &pods[0]
	v.pod, v.node = pod.Name, v.k.b
	if pod.Spec.NodeName == v.k.a.Name {
		v.node = v.k.a
	}
	v.w.redis.OnlyAt(v.address(pod.Status.PodIP))
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if s.RestartCount != 0 {
			v.t.Errorf("container %s of pod %s was restarted %d times: %+v", s.Name, pod.Name, s.RestartCount, s.LastTerminationState)
		}
	}
	for _, mark := range []string{v1alpha1.AnnotationMigration, v1alpha1.AnnotationReleased} {
		if value, ok := pod.Annotations[mark]; ok {
			v.t.Errorf("pod %s has the annotation %s: %s", pod.Name, mark, value)
		}
	}
	if here := v.copies(v.node); here != 1 {
		v.t.Errorf("%d copies of the pod run on its node %s", here, v.node.Name)
	}
	// One that has moved away stands frozen until its end is asked for, or for a second.
	v.k.until("no copy of the pod on node "+v.elsewhere().Name, func() bool { return v.copies(v.elsewhere()) == 0 })
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// copies counts the pod's processes on a node that count in files.
func (v *traveller) copies(n *lab.Node) int { return len(v.processes(n)) }

func (v *traveller) processes(n *lab.Node) []int {
	v.t.Helper()
	pids, err := census.PIDs(n)
	if err != nil {
		v.t.Fatal(err)
	}
	pids = slices.DeleteFunc(pids, func(pid int) bool {
		args, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		return !strings.Contains(string(args), ": app="+v.app+";") || !strings.HasPrefix(string(args), "sh\x00")
	})
	// A shell that is about to run another program looks like the one that forked it.
	counting := slices.Clone(pids)
	return slices.DeleteFunc(pids, func(pid int) bool {
		parent := parentOf(pid)
		return parent == 0 || slices.Contains(counting, parent) // it has ended meanwhile, or is to run another program
	})
}

// parentOf is the parent of a process, 0 if that is gone.
func parentOf(pid int) int {
	stat, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, rest, _ := strings.Cut(string(stat), ") ") // the name before it may have spaces
	var state string
	var parent int
	if _, err := fmt.Sscan(rest, &state, &parent); err != nil {
		return 0
	}
	return parent
}

// goesOn sees that the pod serves, and that its files count on from where they were.
func (v *traveller) goesOn() {
	v.t.Helper()
	v.w.awaitWrites(writeRate / 10)
	before := v.counts
	v.k.until("the files growing", func() bool {
		v.look()
		return slices.IndexFunc(tickFiles, func(f string) bool { return v.counts[f] <= before[f] }) < 0
	})
}

// look counts the lines of the pod's files, which must be the numbers from one on.
func (v *traveller) look() {
	v.t.Helper()
	pids := v.processes(v.node)
	if len(pids) != 1 {
		v.t.Fatalf("%d processes of pod %s count on node %s", len(pids), v.pod, v.node.Name)
	}
	v.counts = map[string]int{}
	for _, file := range tickFiles {
		content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[0]), "root", file))
		if err != nil {
			v.t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		for i, line := range lines[:len(lines)-1] {
			if line != strconv.Itoa(i+1) {
				v.t.Fatalf("line %d of %s in pod %s is %q", i+1, file, v.pod, line)
			}
		}
		v.counts[file] = len(lines) - 1
	}
}

// verify compares all that was written to redis.
func (v *traveller) verify() {
	v.t.Helper()
	v.w.verify()
}

// leftOf is what the nodes have of one migration.
func (k *kube) leftOf(id string) []string {
	return slices.DeleteFunc(k.left(), func(what string) bool { return !strings.Contains(what, id) })
}

// nodesUp waits until both nodes' daemons answer, and the cluster knows that both kubelets do.
func (k *kube) nodesUp() {
	k.t.Helper()
	k.until("both nodes Ready", func() bool {
		return k.kubectl("", "get", "nodes", "-o=jsonpath={.items[*].spec.taints}{.items[*].status.conditions[?(@.type=='Ready')].status}") == "True True"
	})
	for _, n := range []*lab.Node{k.a, k.b} {
		k.until("godwit-node of "+n.Name, func() bool {
			conn, err := net.Dial("unix", n.Path(nodev1.Socket))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}
