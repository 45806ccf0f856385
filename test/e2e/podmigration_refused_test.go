package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// immovables are pods that stay where they are; IMAGE and NODE are filled in.
const immovables = `
apiVersion: v1
kind: Pod
metadata: {name: fixed-hostpath, labels: {app: fixed}}
spec:
  nodeName: NODE
  runtimeClassName: godwit
  terminationGracePeriodSeconds: 0
  volumes: [{name: host, hostPath: {path: /etc}}]
  containers: [{name: main, image: IMAGE, imagePullPolicy: Never, command: [sleep, infinity], volumeMounts: [{name: host, mountPath: /host}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: fixed-runc, labels: {app: fixed}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: IMAGE, imagePullPolicy: Never, command: [sleep, infinity]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: fixed-daemon}
spec:
  selector: {matchLabels: {app: fixed-daemon}}
  template:
    metadata: {labels: {app: fixed-daemon}}
    spec:
      nodeSelector: {kubernetes.io/hostname: NODE}
      runtimeClassName: godwit
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: IMAGE, imagePullPolicy: Never, command: [sleep, infinity]}]
`

// What cannot be asked for, or not of this pod, is refused in words, and nothing is done.
func TestKubernetesPodMigrationsRefused(t *testing.T) {
	k := newKube(t)
	k.nodesUp()
	v := k.traveller("stays", k.a, smallLoad)
	t.Run("by the API server", v.refusedByAPIServer)
	t.Run("by the node", v.refusedByNode)
	t.Run("while another moves the pod", v.refusedWhileMoving)
	v.in(t).verify()
	v.k.nothingLeft()
}

func (v *traveller) refusedByAPIServer(t *testing.T) {
	for want, change := range map[string]func(s *v1alpha1.PodMigrationSpec){
		"targetNode leaves nothing to choose":       func(s *v1alpha1.PodMigrationSpec) { s.NodeSelector = map[string]string{"a": "b"} },
		"mode Cold has no use for a tracker":        func(s *v1alpha1.PodMigrationSpec) { s.Mode, s.Tracker = v1alpha1.ModeCold, v1alpha1.TrackerSoftDirty },
		"mode Live needs a tracker":                 func(s *v1alpha1.PodMigrationSpec) { s.Tracker = v1alpha1.TrackerNone },
		"a timeout is a positive duration":          func(s *v1alpha1.PodMigrationSpec) { s.Timeout = &metav1.Duration{Duration: -time.Second} },
		"spec.podName":                              func(s *v1alpha1.PodMigrationSpec) { s.PodName = "" },
		`Unsupported value: "Warm"`:                 func(s *v1alpha1.PodMigrationSpec) { s.Mode = "Warm" },
		"spec.preCopy.maxRounds in body should be ": func(s *v1alpha1.PodMigrationSpec) { s.PreCopy = &v1alpha1.PreCopy{MaxRounds: 100_000} },
	} {
		m := &v1alpha1.PodMigration{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "refused"},
			Spec:       v1alpha1.PodMigrationSpec{PodName: v.pod, TargetNode: v.elsewhere().Name},
		}
		change(&m.Spec)
		if err := v.user.Create(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	// What is asked for stays. Nobody acts on this one: its pod is nowhere.
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "unchangeable"},
		Spec:       v1alpha1.PodMigrationSpec{PodName: "nowhere", TargetNode: v.k.b.Name, Cancel: true},
	}
	if err := v.user.Create(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.user.Delete(context.Background(), m) })
	for patch, want := range map[string]string{
		`{"spec":{"podName":"other"}}`:   "podName and targetNode cannot be changed",
		`{"spec":{"targetNode":null}}`:   "podName and targetNode cannot be changed",
		`{"spec":{"mode":"Cold"}}`:       "mode, tracker and compression cannot be changed",
		`{"spec":{"timeout":"1h"}}`:      "timeout, bandwidth and keepSourceOnFailure cannot be changed",
		`{"spec":{"cancel":false}}`:      "a cancelled PodMigration stays cancelled",
		`{"spec":{"nodeSelector":{}}}`:   "nodeSelector and affinity cannot be changed",
		`{"spec":{"preCopy":{}}}`:        "preCopy cannot be changed",
		`{"spec":{"bandwidth":"1Mi"}}`:   "timeout, bandwidth and keepSourceOnFailure cannot be changed",
		`{"spec":{"compression":"LZ4"}}`: "mode, tracker and compression cannot be changed",
	} {
		err := v.user.Patch(t.Context(), m.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(patch)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("patch %s: want %q, got %v", patch, want, err)
		}
	}
}

func (v *traveller) refusedByNode(t *testing.T) {
	v.in(t)
	manifest := strings.NewReplacer("IMAGE", theCluster.image, "NODE", v.node.Name).Replace(immovables)
	t.Cleanup(func() {
		if _, err := v.k.Kubectl(context.Background(), manifest, "delete", "--force", "--grace-period=0", "-f", "-"); err != nil {
			t.Error(err)
		}
	})
	v.k.kubectl(manifest, "apply", "-f", "-")
	v.k.ready("fixed-hostpath")
	v.k.ready("fixed-runc")
	v.k.kubectl("", "rollout", "status", "daemonset/fixed-daemon", "--timeout=170s")
	daemon := v.k.kubectl("", "get", "pod", "-l=app=fixed-daemon", "-o=jsonpath={.items[0].metadata.name}")
	for _, c := range []struct{ pod, to, want string }{
		{v.pod, "nowhere", "there is no node nowhere"},
		{v.pod, v.node.Name, "is on node " + v.node.Name + " already"},
		{"fixed-hostpath", v.elsewhere().Name, "volume host is the directory /etc of its node"},
		{"fixed-runc", v.elsewhere().Name, "only pods that were made with godwit can be moved"},
		{daemon, v.elsewhere().Name, "DaemonSet fixed-daemon has one pod on each node"},
	} {
		m := v.ask(func(m *v1alpha1.PodMigration) { m.Spec.PodName, m.Spec.TargetNode = c.pod, c.to })
		end := v.await(m, "the refusal", isSettled)
		if end.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(end.Status.Message, c.want) {
			t.Errorf("pod %s to node %s: %s: %q, want %q", c.pod, c.to, end.Status.Phase, end.Status.Message, c.want)
		}
		pod := new(corev1.Pod)
		if err := v.user.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: c.pod}, pod); err != nil || !isReady(pod) {
			t.Errorf("pod %s: %v, %+v", c.pod, err, pod.Status.Conditions)
		}
	}
	v.find()
	v.goesOn()
}

func (v *traveller) refusedWhileMoving(t *testing.T) {
	v.in(t)
	first := v.await(v.ask(crawl), "the rounds", inRounds)
	second := v.await(v.ask(), "the second's refusal", isSettled)
	if want := "is being moved by PodMigration " + first.Name + " already"; second.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(second.Status.Message, want) {
		t.Errorf("the second is %s: %q, want %q", second.Status.Phase, second.Status.Message, want)
	}
	if end := v.settled(first); end.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Errorf("the first is %s: %s", end.Status.Phase, end.Status.Message)
	}
}
