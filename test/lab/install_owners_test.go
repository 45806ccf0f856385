package lab

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/pace"
)

// threeBehindService is a Deployment whose pods move when they are evicted.
var threeBehindService = `apiVersion: apps/v1
kind: Deployment
metadata: {name: three}
spec:
  replicas: 3
  selector: {matchLabels: {app: three}}
  template:
    metadata: {labels: {app: three, godwit.dev/migrate-on-drain: "true"}}
    spec:
` + webPod("      ", "runtimeClassName: godwit") + `---
apiVersion: v1
kind: Service
metadata: {name: three}
spec:
  selector: {app: three}
  ports: [{port: 80, targetPort: 8080}]
`

const fiveAlways = `apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: three}
spec:
  minAvailable: 5
  selector: {matchLabels: {app: three}}
`

var indexedJob = `apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  backoffLimit: 0
  completions: 2
  parallelism: 2
  completionMode: Indexed
  template:
    metadata: {labels: {app: indexed}}
    spec:
` + webPod("      ", "runtimeClassName: godwit", "restartPolicy: Never")

// noMorePods keeps the API server from making any, after its webhooks have answered.
const noMorePods = `apiVersion: v1
kind: ResourceQuota
metadata: {name: no-more-pods}
spec: {hard: {pods: "0"}}
`

var oneJob = `apiVersion: batch/v1
kind: Job
metadata: {name: one}
spec:
  backoffLimit: 0
  template:
    metadata: {labels: {app: one}}
    spec:
` + webPod("      ", "runtimeClassName: godwit", "restartPolicy: Never")

var twoOfASet = `apiVersion: v1
kind: Service
metadata: {name: two}
spec: {clusterIP: None, selector: {app: two}, ports: [{port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: two}
spec:
  serviceName: two
  replicas: 2
  selector: {matchLabels: {app: two}}
  template:
    metadata: {labels: {app: two}}
    spec:
` + webPod("      ", "runtimeClassName: godwit")

// testOwners moves pods that controllers own. A pod that has moved keeps the host name that it was born with, which is what it
// answers: a fresh one answers with its own.
func testOwners(t *testing.T, in *installation) {
	c := in.cluster
	kubectl(t, c, threeBehindService, "apply", "-f", "-")
	kubectl(t, c, "", "rollout", "status", "deployment", "three", "--timeout=170s")
	born := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=three", "-o=jsonpath={.items[*].metadata.name}"))
	service := kubectl(t, c, "", "get", "service", "three", "-o=jsonpath={.spec.clusterIP}")
	stillThese := func(t *testing.T, made int) {
		t.Helper()
		kubectl(t, c, "", "rollout", "status", "deployment", "three", "--timeout=170s")
		wantAnswers(t, in.lab.Node("a").Dial, service+":80", born)
		events := kubectl(t, c, "", "get", "events", "--field-selector=involvedObject.kind=ReplicaSet,reason=SuccessfulCreate", "-o=jsonpath={.items[*].metadata.name}")
		if got := len(strings.Fields(events)); got != made {
			t.Errorf("the ReplicaSet made %d pods, want %d", got, made)
		}
	}

	t.Run("one pod of a Deployment moves, and no other is made or killed", func(t *testing.T) {
		from := strings.Fields(kubectl(t, c, "", "get", "pod", born[0], "-o=jsonpath={.metadata.name} {.spec.nodeName}"))
		load := askAlways(t, in.lab.Node("a").Dial, service+":80")
		migrate(t, c, "owned", from[0], otherNode(from[1]), "")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "owned", "--timeout=170s")
		load.stop(t, born)
		stillThese(t, 4)
	})
	t.Run("a move that is cancelled gives the pod back to its ReplicaSet", func(t *testing.T) {
		pod := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=three", "-o=jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName}"))
		migrate(t, c, "cancelled", pod[0], otherNode(pod[1]), ", bandwidth: 64Ki, compression: None")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.claim}=Taken", "podmigration", "cancelled", "--timeout=170s")
		kubectl(t, c, "", "patch", "podmigration", "cancelled", "--type=merge", `-p={"spec":{"cancel":true}}`)
		kubectl(t, c, "", "wait", "--for=condition=Cleaned", "podmigration", "cancelled", "--timeout=170s")
		if phase := kubectl(t, c, "", "get", "podmigration", "cancelled", "-o=jsonpath={.status.phase}"); phase != "Cancelled" {
			t.Errorf("phase %s", phase)
		}
		kubectl(t, c, "", "get", "pod", pod[0])
		stillThese(t, 5)
	})
	// What becomes of this one is seen when other pods have moved: it takes a minute.
	refused := refuseByQuota(t, c)
	t.Run("a Job's pod moves, and the Job takes it for no failure", func(t *testing.T) {
		kubectl(t, c, oneJob, "apply", "-f", "-")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.ready}=1", "job", "one", "--timeout=170s")
		pod := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=one", "-o=jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName}"))
		migrate(t, c, "job", pod[0], otherNode(pod[1]), "")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "job", "--timeout=170s")
		kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", "-l=app=one", "--timeout=170s")
		now := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=one", "-o=jsonpath={.items[*].status.podIP}"))
		if len(now) != 1 {
			t.Fatalf("pods of the Job: %v", now)
		}
		wantAnswers(t, in.lab.Node("a").Dial, now[0]+":8080", []string{pod[0]})
		if status := kubectl(t, c, "", "get", "job", "one", "-o=jsonpath={.status.active} {.status.failed}"); strings.TrimSpace(status) != "1" {
			t.Errorf("active and failed: %q", status)
		}
		kubectl(t, c, "", "delete", "job", "one", "--wait")
	})
	t.Run("a StatefulSet's pod moves under its name, and the other stays", func(t *testing.T) {
		kubectl(t, c, twoOfASet, "apply", "-f", "-")
		kubectl(t, c, "", "rollout", "status", "statefulset", "two", "--timeout=170s")
		was := func(pod string) []string {
			return strings.Fields(kubectl(t, c, "", "get", "pod", pod, "-o=jsonpath={.spec.nodeName} {.metadata.uid} {.status.podIP}"))
		}
		moved, other := was("two-1"), was("two-0")
		wantAnswers(t, in.lab.Node("a").Dial, moved[2]+":8080/count", []string{"1"})
		migrate(t, c, "member", "two-1", otherNode(moved[0]), "")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "member", "--timeout=170s")
		kubectl(t, c, "", "rollout", "status", "statefulset", "two", "--timeout=170s")
		now := was("two-1")
		if now[0] != otherNode(moved[0]) || now[1] == moved[1] {
			t.Errorf("pod two-1 was %v and is %v", moved, now)
		}
		wantAnswers(t, in.lab.Node("a").Dial, now[2]+":8080/count", []string{"2"})
		if now := was("two-0"); !slices.Equal(now, other) {
			t.Errorf("pod two-0 was %v and is %v", other, now)
		}
		kubectl(t, c, "", "delete", "statefulset,service", "two", "--wait")
		kubectl(t, c, "", "wait", "--for=delete", "pod", "-l=app=two", "--timeout=170s")
	})
	t.Run("a pod of an indexed Job keeps its index", func(t *testing.T) {
		kubectl(t, c, indexedJob, "apply", "-f", "-")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.ready}=2", "job", "indexed", "--timeout=170s")
		pod := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=batch.kubernetes.io/job-completion-index=1,app=indexed", "-o=jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName}"))
		migrate(t, c, "indexed", pod[0], otherNode(pod[1]), "")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "indexed", "--timeout=170s")
		kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", "-l=app=indexed", "--timeout=170s")
		now := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=indexed", "--sort-by={.metadata.annotations.batch\\.kubernetes\\.io/job-completion-index}",
			"-o=jsonpath={range .items[*]}{.metadata.annotations.batch\\.kubernetes\\.io/job-completion-index} {.status.podIP} {.spec.nodeName} {end}"))
		if len(now) != 6 || now[0] != "0" || now[3] != "1" || now[5] != otherNode(pod[1]) {
			t.Fatalf("index, address and node of the Job's pods: %v; that of index 1 was to go to %s", now, otherNode(pod[1]))
		}
		wantAnswers(t, in.lab.Node("a").Dial, now[4]+":8080", []string{"indexed-1"})
		if status := kubectl(t, c, "", "get", "job", "indexed", "-o=jsonpath={.status.active} {.status.failed}"); strings.TrimSpace(status) != "2" {
			t.Errorf("active and failed: %q", status)
		}
		kubectl(t, c, "", "delete", "job", "indexed", "--wait")
	})
	t.Run("a pod that a quota refused does not start afresh later", func(t *testing.T) {
		refused(t)
		kubectl(t, c, "", "rollout", "status", "deployment", "three", "--timeout=170s")
		wantAnswers(t, in.lab.Node("a").Dial, service+":80", born)
	})
	// Five pods, of which two are new and answer with names of their own.
	names := func() []string {
		return strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=three", "-o=jsonpath={.items[*].metadata.name}"))
	}
	before := names()
	kubectl(t, c, "", "scale", "deployment", "three", "--replicas=5")
	kubectl(t, c, "", "rollout", "status", "deployment", "three", "--timeout=170s")
	born = append(born, slices.DeleteFunc(names(), func(name string) bool { return slices.Contains(before, name) })...)
	drained := func(t *testing.T, node string) {
		t.Helper()
		defer kubectl(t, c, "", "uncordon", node)
		nodes := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=three", "-o=jsonpath={.items[*].spec.nodeName}"))
		if len(nodes) != 5 || slices.Contains(nodes, node) {
			t.Errorf("pods on %v", nodes)
		}
		wantAnswers(t, in.lab.Node(otherNode(node)).Dial, service+":80", born)
	}
	// A busy machine may take longer to answer than the chart gives it, and pods would be evicted that are to move.
	kubectl(t, c, "", "patch", "validatingwebhookconfiguration", v1alpha1.WebhookConfiguration, "--type=json",
		`-p=[{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 30}]`)
	t.Run("a drain moves the pods of a node, though one of two controllers goes meanwhile", func(t *testing.T) {
		leader, _, _ := strings.Cut(kubectl(t, c, "", "get", "lease", "-n", installedIn, "godwit-controller", "-o=jsonpath={.spec.holderIdentity}"), "_")
		done := make(chan error, 1)
		go func() {
			_, err := c.Kubectl(t.Context(), "", "drain", "a", "--pod-selector=app=three", "--timeout=4m")
			done <- err
		}()
		kubectl(t, c, "", "delete", "pod", "-n", installedIn, leader, "--wait=false")
		if err := <-done; err != nil {
			t.Error(err)
		}
		drained(t, "a")
		kubectl(t, c, "", "rollout", "status", "-n", installedIn, "deployment/godwit-controller", "--timeout=170s")
	})
	t.Run("a drain moves all five pods of a node, whose budget allows no disruption, and it counts none", func(t *testing.T) {
		kubectl(t, c, fiveAlways, "apply", "-f", "-")
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.currentHealthy}=5", "poddisruptionbudget", "three", "--timeout=170s")
		load := askAlways(t, in.lab.Node("a").Dial, service+":80")
		kubectl(t, c, "", "drain", "b", "--pod-selector=app=three", "--timeout=4m")
		load.stop(t, born)
		drained(t, "b")
		if disrupted := kubectl(t, c, "", "get", "poddisruptionbudget", "three", "-o=jsonpath={.status.disruptedPods}"); disrupted != "" {
			t.Errorf("the budget counts disruptions: %s", disrupted)
		}
	})
	kubectl(t, c, "", "delete", "deployment,service,poddisruptionbudget", "three")
	kubectl(t, c, "", "wait", "--for=delete", "pod", "-l=app=three", "--timeout=170s")
}

// refuseByQuota asks for a move of a pod of Deployment three whose destination's pod is claimed, and then refused by a quota that
// lets none be made. The returned function waits until it has moved all the same.
func refuseByQuota(t *testing.T, c *Cluster) (moved func(*testing.T)) {
	t.Helper()
	from := strings.Fields(kubectl(t, c, "", "get", "pods", "-l=app=three", "-o=jsonpath={.items[0].metadata.name} {.items[0].spec.nodeName}"))
	kubectl(t, c, noMorePods, "apply", "-f", "-")
	kubectl(t, c, "", "wait", "--for=jsonpath={.status.hard.pods}=0", "resourcequota", "no-more-pods", "--timeout=170s")
	migrate(t, c, "refused", from[0], otherNode(from[1]), "")
	kubectl(t, c, "", "wait", "--for=jsonpath={.status.claim}=Taken", "podmigration", "refused", "--timeout=170s")
	kubectl(t, c, "", "delete", "resourcequota", "no-more-pods")

	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(5*time.Minute))
	touched := make(chan error, 1)
	go func() {
		defer close(touched)
		// The claim is opened again after a minute. Touched, the ReplicaSet tries at once: its pauses have grown to more than that.
		_, err := c.Kubectl(ctx, "", "wait", "--for=jsonpath={.status.claim}=Open", "podmigration", "refused", "--timeout=4m")
		if err == nil {
			_, err = c.Kubectl(ctx, "", "annotate", "replicaset", "-l=app=three", "touched=yes")
		}
		touched <- err
	}()
	t.Cleanup(func() {
		cancel()
		for range touched { // until it is closed
		}
	})
	return func(t *testing.T) {
		t.Helper()
		if err := <-touched; err != nil {
			t.Error(err)
		}
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "refused", "--timeout=170s")
	}
}

// migrate asks for a move; more is of the specification.
func migrate(t *testing.T, c *Cluster, name, pod, to, more string) {
	t.Helper()
	kubectl(t, c, "apiVersion: godwit.dev/v1alpha1\nkind: PodMigration\nmetadata: {name: "+name+"}\n"+
		"spec: {podName: "+pod+", targetNode: "+to+more+"}\n", "apply", "-f", "-")
}

func otherNode(name string) string { return map[string]string{"a": "b", "b": "a"}[name] }
