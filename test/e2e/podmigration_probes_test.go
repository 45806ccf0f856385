package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// shop is a pod with everything that kubelet does for one but once, and with what it asks all the time; a Service leads to it. Its
// probes may wait for their answers: one that is refused fails at once, and how long a machine takes to answer is not tried.
func shop(node string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: shop}
stringData: {word: sesame}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{port: 6379}]
---
apiVersion: v1
kind: Pod
metadata: {name: shop-client, labels: {app: shop-client}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: client, image: %[1]q, imagePullPolicy: Never, command: [sleep, infinity]}
---
apiVersion: v1
kind: Pod
metadata: {name: shop, labels: {app: shop}}
spec:
  nodeName: %[2]s
  runtimeClassName: godwit
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: config, configMap: {name: shop}}
  - {name: secret, secret: {secretName: shop}}
  initContainers:
  - name: setup
    image: %[1]q
    imagePullPolicy: Never
    command: [sh, -c, "echo ran >> /data/setup"]
    volumeMounts: [{name: disk, mountPath: /data}]
  - name: side
    restartPolicy: Always
    image: %[1]q
    imagePullPolicy: Never
    command: [sh, -c, "while :; do date >> /data/side; sleep 0.2; done"]
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo ran >> /data/side-hook"]}}}
    volumeMounts: [{name: disk, mountPath: /data}]
  containers:
  - name: redis
    image: %[1]q
    imagePullPolicy: Never
    command: [%[3]s]
    lifecycle: {postStart: {exec: {command: [sh, -c, "echo ran >> /work/hook"]}}}
    readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 30}
    livenessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 30}
    volumeMounts: [{name: disk, mountPath: /work}, {name: config, mountPath: /config}, {name: secret, mountPath: /secret}]
  - name: ticks
    image: %[1]q
    imagePullPolicy: Never
    command: [sh, -c, %[4]q]
    readinessProbe: {exec: {command: [test, -s, /data/ticks]}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 30}
    volumeMounts:
    - {name: disk, mountPath: /data}
    - {name: disk, mountPath: /part, subPath: part}
    - {name: memory, mountPath: /memory}
`, theCluster.image, node, redisCommand, ticksOf("shop"))
}

// What kubelet does once it does not do again, what it asks is always answered, and a Service follows the pod.
func TestKubernetesPodMigrationsWithProbesAndHooks(t *testing.T) {
	k := newKube(t)
	v := k.travellerOf(shop(k.a.Name), "shop", k.a, smallLoad)
	t.Cleanup(func() {
		if _, err := k.Kubectl(context.Background(), "", "delete", "configmap/shop", "secret/shop", "service/shop", "pod/shop-client", "--grace-period=0"); err != nil {
			t.Error(err)
		}
	})
	k.ready("shop-client")
	address := net.JoinHostPort(k.kubectl("", "get", "service", "shop", "-o=jsonpath={.spec.clusterIP}"), redisPort)
	for _, way := range []string{"there", "and back"} {
		t.Run(way, func(t *testing.T) {
			source := v.in(t).get()
			token := v.exec("redis", "cat /var/run/secrets/kubernetes.io/serviceaccount/token")
			calls := startCalls(t, []*lab.Node{k.a, k.b}, address)
			m := v.settled(v.ask())
			if m.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
			}
			calls.follow(v)
			if out := k.kubectl("", "exec", "shop-client", "--", "redis-cli", "-h", strings.Split(address, ":")[0], "ping"); out != "PONG" {
				t.Errorf("another pod gets %q from the Service", out)
			}
			for file, want := range map[string]string{
				"/work/setup": "ran", "/work/side-hook": "ran", "/work/hook": "ran", "/config/greeting": "hello", "/secret/word": "sesame",
			} {
				if got := v.exec("redis", "cat "+file); got != want {
					t.Errorf("%s has %q, want %q", file, got, want)
				}
			}
			if got := v.exec("redis", "cat /var/run/secrets/kubernetes.io/serviceaccount/token"); got == "" || got == token {
				t.Error("the pod has no service account's token of its own")
			}
			v.neverUnhealthy(source, m.Status.CommitTime.Time)
			v.neverUnhealthy(v.get(), time.Now())
		})
	}
	v.in(t).verify()
	v.k.nothingLeft()
}

// exec runs a shell in one of the pod's containers.
func (v *traveller) exec(container, script string) string {
	v.t.Helper()
	return v.k.kubectl("", "exec", v.pod, "-c="+container, "--", "sh", "-c", script)
}

// neverUnhealthy sees that kubelet has not found a probe of a pod failing before a moment, nor ended a container for it: the
// source's processes are gone for a moment before its object is.
func (v *traveller) neverUnhealthy(pod *corev1.Pod, before time.Time) {
	v.t.Helper()
	all := new(corev1.EventList)
	if err := v.user.List(v.t.Context(), all, client.InNamespace("default")); err != nil {
		v.t.Fatal(err)
	}
	for _, e := range all.Items {
		bad := e.Reason == "Unhealthy" || e.Reason == "ProbeWarning" || e.Reason == "BackOff"
		if bad && e.InvolvedObject.UID == pod.UID && e.FirstTimestamp.Time.Before(before) {
			v.t.Errorf("pod %s: %s: %s", pod.Name, e.Reason, e.Message)
		}
	}
}

// calls are connections to an address from nodes, one after the other.
type calls struct {
	stop func()

	mu sync.Mutex
	by map[string]*called // by node, guarded by mu
}

// called is what came of the connections from one node.
type called struct {
	answered int
	longest  time.Duration // without an answer
	last     time.Time     // of an answer
}

func startCalls(t *testing.T, nodes []*lab.Node, address string) *calls {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	c := &calls{by: map[string]*called{}}
	c.stop = func() { cancel(); running.Wait() }
	t.Cleanup(c.stop)
	for _, n := range nodes {
		of := &called{last: time.Now()}
		c.by[n.Name] = of
		running.Go(func() {
			for ctx.Err() == nil {
				if ping(ctx, n, address) == nil {
					c.mu.Lock()
					of.answered, of.longest, of.last = of.answered+1, max(of.longest, time.Since(of.last)), time.Now()
					c.mu.Unlock()
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return c
}

// follow waits until a new connection from each node is answered, and ends the calls.
func (c *calls) follow(v *traveller) {
	v.t.Helper()
	from := time.Now()
	for node, of := range c.by {
		v.k.until("the Service answering node "+node, func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return of.last.After(from)
		})
	}
	c.stop()
	for node, of := range c.by {
		v.t.Logf("from node %s the Service answered %d times; longest time without an answer %v", node, of.answered, of.longest.Round(time.Millisecond))
	}
}

// ping asks a redis on a connection of its own.
func ping(ctx context.Context, from *lab.Node, address string) error {
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(10*time.Second)) // an address that nobody has any more says nothing
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "PING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && line != "+PONG\r\n" {
		err = fmt.Errorf("redis answered %q", line)
	}
	return err
}
