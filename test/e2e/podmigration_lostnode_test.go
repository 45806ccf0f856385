package e2e

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// keptPod has the API server refuse every deletion of a pod.
const keptPod = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: kept}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [DELETE], resources: [pods], resourceNames: [NAME]}]
  validations: [{expression: "false", message: kept by a test}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: kept}
spec: {policyName: kept, validationActions: [Deny]}
`

// keep has nobody delete a pod until the returned function is called.
func (k *kube) keep(pod string) (letGo func()) {
	k.t.Helper()
	k.kubectl(strings.Replace(keptPod, "NAME", pod, 1), "apply", "-f", "-")
	letGo = func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(time.Minute))
		defer cancel()
		_, err := k.Kubectl(ctx, "", "delete", "--ignore-not-found", "validatingadmissionpolicy,validatingadmissionpolicybinding", "kept")
		if err != nil {
			k.t.Error(err)
		}
	}
	k.t.Cleanup(letGo)
	k.until("pod "+pod+" kept", func() bool {
		_, err := k.Kubectl(k.t.Context(), "", "delete", "pod", pod, "--dry-run=server")
		return err != nil && strings.Contains(err.Error(), "kept by a test")
	})
	return letGo
}

// rebuild brings the cluster's nodes that were killed up again, from nothing.
func (k *kube) rebuild() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(8*time.Minute))
	defer cancel()
	l, err := lab.Up(ctx, lab.Options{Dir: labDir() + "-kubernetes", Kubernetes: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		k.t.Fatal(err)
	}
	_ = theCluster.lab.Close()
	theCluster.lab = l
	k.a, k.b, k.Cluster = l.Node("a"), l.Node("b"), l.Kubernetes()
}

// The source's machine loses its power when it has decided, and its pod is still in the cluster, which would wait for that
// node: the destination has the pod replaced, and runs it while the source is away.
func TestKubernetesSourceNodeDiesAfterTheCommitOfALatePod(t *testing.T) {
	k := newKube(t)
	k.controller()
	v := k.member("away", statefulSet("away", "", nil, ticksOf("away-0")))
	was, from := string(v.get().UID), v.node.Name
	letGo := k.keep("away-0")
	m := v.await(v.ask(), "the commit", hasCondition(v1alpha1.ConditionCommitted))
	if m.Status.Phase.Over() {
		t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
	}
	to := v.elsewhere()
	k.until("the destination knowing that it owns the pod", func() bool {
		b, _ := os.ReadFile(to.Path("/run/godwit/migrations/" + "pm-" + string(m.UID) + ".json"))
		return strings.Contains(string(b), "destination-awaiting")
	})
	if err := v.node.Kill(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before anything is removed
		if k.away(from) {
			k.rebuild()
		}
	})
	letGo()
	m = v.await(m, "the pod restored", hasCondition(v1alpha1.ConditionRestored))
	pod := v.get()
	if pod.Spec.NodeName != to.Name || string(pod.UID) == was || m.Status.DestinationPod.UID != pod.UID {
		t.Errorf("pod %s is on node %s, it was %s; the PodMigration has %+v", pod.UID, pod.Spec.NodeName, was, m.Status.DestinationPod)
	}
	if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionRestored) || !v.k.away(from) {
		t.Errorf("conditions %+v; node %s away: %t", m.Status.Conditions, from, v.k.away(from))
	}
	v.w.redis.OnlyAt(v.address(pod.Status.PodIP))
	v.w.awaitWrites(writeRate / 10)
	k.rebuild()
	k.nodesUp()
	v.node = k.a
	if to.Name == k.b.Name {
		v.node = k.b
	}
	v.checkLate(v.settled(m), was)
	v.verify()
	k.nothingLeft()
}

// away says whether nothing of a node runs.
func (k *kube) away(name string) bool {
	for _, n := range []*lab.Node{k.a, k.b} {
		if n.Name == name {
			return !n.Alive()
		}
	}
	return true
}

// replica is a Deployment of one pod.
func (k *kube) replica(app string) *traveller {
	k.t.Helper()
	manifest := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: " + app + "}\nspec:\n  selector: {matchLabels: {app: " + app + "}}\n" +
		"  template:\n    metadata: {labels: {app: " + app + "}}\n    spec:\n" + counter{app: app}.spec("      ")
	v := &traveller{k: k, t: k.t, user: k.user(), app: app}
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		if _, err := k.Kubectl(ctx, "", "delete", "deployment", app); err != nil {
			k.t.Error(err)
		}
		v.remove()
	})
	k.kubectl(manifest, "apply", "-f", "-")
	v.findReplica(func(*corev1.Pod) bool { return true })
	return v
}

// findReplica waits until the Deployment has one pod, which is ready and is meant.
func (v *traveller) findReplica(is func(*corev1.Pod) bool) {
	v.t.Helper()
	v.k.until("one pod "+v.app+" that is ready", func() bool {
		pods := slices.DeleteFunc(v.pods(), func(pod corev1.Pod) bool { return !pod.DeletionTimestamp.IsZero() })
		if len(pods) != 1 || !isReady(&pods[0]) || v.k.away(pods[0].Spec.NodeName) || !is(&pods[0]) {
			return false
		}
		v.pod, v.node = pods[0].Name, v.k.b
		if pods[0].Spec.NodeName == v.k.a.Name {
			v.node = v.k.a
		}
		return true
	})
}

// offTaint is what an operator puts on the node of a machine that is off.
const offTaint = nodecontroller.OutOfServiceTaint + "=off:NoExecute"

// The destination's machine loses its power around the commit of a Deployment's pod. Whatever was decided by then holds: nothing
// of the pod runs on the source if it was given away, the PodMigration ends, and the owner has a pod again.
func TestKubernetesDestinationNodeDiesAfterTheCommit(t *testing.T) {
	newKube(t).controller()
	for _, at := range []moment{
		{"agreed to", hasCondition(v1alpha1.ConditionAgreed)}, // the source is about to freeze the pod, and to decide
		{"committed", hasCondition(v1alpha1.ConditionCommitted)},
	} {
		t.Run(at.name, func(t *testing.T) {
			k := newKube(t) // its nodes are others when one was built again
			k.nodesUp()
			v := k.replica("strays")
			was, from, to := v.get(), v.node, v.elsewhere()
			letGo := k.keep(v.pod) // so that the migration does not end before the machine does
			m := v.await(v.ask(), "the migration "+at.name, at.is)
			if err := to.Kill(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { // before anything is removed
				if k.away(to.Name) {
					k.rebuild()
				}
			})
			k.kubectl("", "taint", "node", to.Name, offTaint)
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(time.Minute))
				defer cancel()
				if _, err := k.Kubectl(ctx, "", "taint", "node", to.Name, offTaint+"-"); err != nil {
					t.Error(err)
				}
			})
			letGo()
			m = v.await(m, "the end", isSettled)
			t.Logf("%s: %s", m.Status.Phase, m.Status.Message)
			given := m.Status.Phase == v1alpha1.PhaseSucceeded || strings.Contains(m.Status.Message, nodecontroller.ErrOutOfService.Error())
			if at.name == "committed" && m.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Errorf("the destination had said that it has the pod, and the PodMigration is %s", m.Status.Phase)
			}
			// The taint has the owner miss a pod before its own is given back to it: it may make none meanwhile, and keeps that.
			v.findReplica(func(pod *corev1.Pod) bool { return (pod.UID == was.UID) == !given })
			if v.node != from {
				t.Errorf("given away: %t; pod %s was on node %s and is on node %s", given, v.app, from.Name, v.node.Name)
			}
			k.until("one copy of the pod on node "+from.Name, func() bool { return v.copies(from) == 1 })
			k.rebuild()
			k.nothingLeft()
		})
	}
}
