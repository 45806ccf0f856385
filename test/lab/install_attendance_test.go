package lab

import (
	"strings"
	"testing"
)

// abandoned are PodMigrations to which no node attends: of no pod, of a pod that no node has room for, and of a node that is
// gone from the cluster, which took it up.
const abandoned = `apiVersion: godwit.dev/v1alpha1
kind: PodMigration
metadata: {name: of-nothing}
spec: {podName: nothing, targetNode: b}
---
apiVersion: v1
kind: Pod
metadata: {name: roomless}
spec:
  nodeSelector: {no: node}
  runtimeClassName: godwit
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: 'localhost/web:latest', imagePullPolicy: Never}]
---
apiVersion: godwit.dev/v1alpha1
kind: PodMigration
metadata: {name: of-roomless}
spec: {podName: roomless, targetNode: b}
---
apiVersion: godwit.dev/v1alpha1
kind: PodMigration
metadata: {name: of-gone, finalizers: [godwit.dev/migration]}
spec: {podName: gone, targetNode: b}
`

// abandon makes them; what becomes of them is seen by testAbandoned, which takes a minute from now.
func abandon(t *testing.T, c *Cluster) {
	t.Helper()
	kubectl(t, c, abandoned, "apply", "-f", "-")
	kubectl(t, c, "", "patch", "podmigration", "of-gone", "--subresource=status", "--type=merge",
		`-p={"status":{"phase":"Migrating","migration":"pm-gone","sourceNode":"gone","destinationNode":"b","sourcePod":{"name":"gone","uid":"1"}}}`)
	kubectl(t, c, "", "delete", "podmigration", "of-gone", "--wait=false")
}

// testAbandoned sees that godwit-controller has said what is the matter, and let go of what nobody else will.
func testAbandoned(t *testing.T, c *Cluster) {
	said := func(name, phase, want string) {
		t.Helper()
		kubectl(t, c, "", "wait", "--for=jsonpath={.status.phase}="+phase, "podmigration", name, "--timeout=170s")
		if message := kubectl(t, c, "", "get", "podmigration", name, "-o=jsonpath={.status.message}"); !strings.Contains(message, want) {
			t.Errorf("PodMigration %s is %s: %q, want %q", name, phase, message, want)
		}
	}
	said("of-nothing", "Failed", "there is no pod nothing")
	said("of-roomless", "Pending", "pod roomless is on no node yet")
	kubectl(t, c, "", "delete", "pod", "roomless", "--force", "--grace-period=0")
	said("of-roomless", "Failed", "there is no pod roomless")
	kubectl(t, c, "", "wait", "--for=delete", "podmigration", "of-gone", "--timeout=170s") // as its Node has been for a minute
	kubectl(t, c, "", "delete", "podmigration", "of-nothing", "of-roomless")
}
