package lab

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/pace"
)

// TestClusterNodeIsLost kills a node from which a pod is being moved, and takes it out of the cluster: nothing of the move
// stays on the other.
func TestClusterNodeIsLost(t *testing.T) {
	t.Parallel() // it waits most of its time
	in := newInstallation(t)
	c := in.cluster
	in.runHelm(t, append([]string{"install", "godwit", in.chart, "--create-namespace"}, in.settings()...)...)
	kubectl(t, c, "apiVersion: v1\nkind: Pod\nmetadata: {name: leaver}\nspec:\n"+webPod("  ", "runtimeClassName: godwit", "nodeName: a"), "apply", "-f", "-")
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", "leaver", "--timeout=170s")
	migrate(t, c, "lost", "leaver", "b", ", bandwidth: 32Ki, compression: None")
	kubectl(t, c, "", "wait", "--for=condition=Parked", "podmigration", "lost", "--timeout=170s")

	if err := in.lab.Node("a").Kill(); err != nil {
		t.Fatal(err)
	}
	kubectl(t, c, "", "delete", "node", "a")
	kubectl(t, c, "", "wait", "--for=delete", "pod", "leaver", "--timeout=170s") // by the cluster itself
	// A controller has to lead, to miss the node, and to miss it for a minute.
	kubectl(t, c, "", "wait", "--for=jsonpath={.status.completionTime}", "podmigration", "lost", "--timeout=170s")
	said := kubectl(t, c, "", "get", "podmigration", "lost", "-o=jsonpath={.status.phase}: {.status.message}")
	if !strings.HasPrefix(said, "Failed: ") {
		t.Errorf("it is %s", said)
	}
	t.Log(said)
	kubectl(t, c, "", "wait", "--for=delete", "pod", "--all", "--timeout=170s")
	kubectl(t, c, "", "wait", "--for=condition=Cleaned", "podmigration", "lost", "--timeout=170s")
	kubectl(t, c, "", "delete", "podmigration", "lost", "--timeout=170s")
	// kubelet stops a sandbox after the cluster has forgotten its pod.
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(time.Minute))
	defer cancel()
	err := until(ctx, func() error {
		pods, err := in.lab.Node("b").Pods(ctx)
		for _, p := range pods {
			if strings.HasPrefix(p.Name, "leaver") && p.State == "ready" {
				err = fmt.Errorf("node b has pod %s", p.Name)
			}
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
