package e2e

import (
	"fmt"
	"strings"
	"testing"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// lingerer is the manifest of a pod of some megabytes that does not hear a SIGTERM, and has a while to end: a container's first process
// gets none that it does not handle.
func lingerer(name, node string) string {
	script := "memory=$(head -c 6000000 /dev/urandom | base64); echo ready > /ready; while :; do sleep 0.1; done"
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  runtimeClassName: godwit
  nodeName: %s
  terminationGracePeriodSeconds: 60
  containers:
  - name: lingers
    image: %q
    imagePullPolicy: Never
    command: [sh, -c, %q]
    readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1}
`, name, name, node, theCluster.image, script)
}

// Somebody deletes the pod while it is moved. What kubelet is ending here must not run on there.
func TestKubernetesPodMigrationsOfAPodThatIsDeleted(t *testing.T) {
	k := newKube(t)
	v := &traveller{k: k, t: t, user: k.user(), app: "lingers", pod: "lingers", node: k.a}
	t.Cleanup(v.remove)
	k.kubectl(lingerer(v.pod, v.node.Name), "apply", "-f", "-")
	k.ready(v.pod)
	m := v.await(v.ask(crawl), "the rounds", inRounds)
	k.kubectl("", "delete", "pod", v.pod, "--wait=false")
	if v.get().DeletionTimestamp.IsZero() {
		t.Fatal("the pod is not being deleted")
	}
	end := v.await(m, "the end", isSettled)
	if end.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(end.Status.Message, "the pod that is moved was deleted") {
		t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
	}
	for _, pod := range v.pods() {
		if pod.Name != v.pod && pod.DeletionTimestamp.IsZero() {
			t.Errorf("pod %s is there to stay on node %s", pod.Name, pod.Spec.NodeName)
		}
	}
	k.kubectl("", "delete", "pod", v.pod, "--force", "--grace-period=0", "--wait=false")
	k.until("no pod", func() bool { return len(v.pods()) == 0 })
	k.nothingLeft()
}
