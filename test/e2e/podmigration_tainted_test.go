package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/pace"
)

// awayTaint has a node's pods removed.
const awayTaint = "godwit.dev/e2e=away:NoExecute"

// The destination's pod of a ReplicaSet is removed from its node before the commit, by whoever removes pods. The ReplicaSet misses one then,
// and its own, which runs on, is not its own again yet: it must not make another, and have two to choose from.
func TestKubernetesAReplicaSetKeepsItsPodWhenTheDestinationsIsRemoved(t *testing.T) {
	newKube(t).controller()
	for _, c := range []struct {
		name string
		do   func(v *traveller, m *v1alpha1.PodMigration)
	}{
		{"by a taint", (*traveller).taintDestination},
		{"by an eviction", func(v *traveller, m *v1alpha1.PodMigration) {
			v.k.kubectl(`{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"`+m.Status.DestinationPod.Name+`","namespace":"default"}}`,
				"create", "--raw", "/api/v1/namespaces/default/pods/"+m.Status.DestinationPod.Name+"/eviction", "-f", "-")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKube(t)
			k.nodesUp()
			v := k.replica("keeps")
			was, from := v.get(), v.node
			m := v.await(v.ask(crawl), "the pod parked", hasCondition(v1alpha1.ConditionParked))
			if m.Status.Phase.Over() {
				t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
			}
			made := []string{was.Name, m.Status.DestinationPod.Name}
			c.do(v, m)
			m = v.await(m, "the end", isSettled)
			t.Logf("%s: %s", m.Status.Phase, m.Status.Message)
			if m.Status.Phase != v1alpha1.PhaseFailed {
				t.Errorf("it is %s", m.Status.Phase)
			}
			v.findReplica(func(pod *corev1.Pod) bool { return pod.UID == was.UID })
			if v.node != from || v.copies(from) != 1 {
				t.Errorf("%d copies on node %s; the pod is on node %s", v.copies(from), from.Name, v.node.Name)
			}
			for _, pod := range v.madeByOwner(was) {
				if !slices.Contains(made, pod) {
					t.Errorf("the ReplicaSet made pod %s as well, besides %v", pod, made)
				}
			}
			k.until("nothing left of the migration", func() bool { return len(k.leftOf("pm-"+string(m.UID))) == 0 })
		})
	}
}

// taintDestination has the cluster remove all pods of the node to which the pod is on its way, until the test ends.
func (v *traveller) taintDestination(m *v1alpha1.PodMigration) {
	v.t.Helper()
	node := m.Status.DestinationNode
	v.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(time.Minute))
		defer cancel()
		if _, err := v.k.Kubectl(ctx, "", "taint", "node", node, awayTaint+"-"); err != nil {
			v.t.Error(err)
		}
	})
	v.k.kubectl("", "taint", "node", node, awayTaint)
}

// madeByOwner are the names of all pods that a pod's owner has made, by its Events.
func (v *traveller) madeByOwner(pod *corev1.Pod) []string {
	v.t.Helper()
	all := new(corev1.EventList)
	if err := v.user.List(within(v.t, time.Minute), all, client.InNamespace("default")); err != nil {
		v.t.Fatal(err)
	}
	var names []string
	for _, e := range all.Items {
		if e.Reason == "SuccessfulCreate" && e.InvolvedObject.UID == pod.OwnerReferences[0].UID {
			names = append(names, strings.TrimPrefix(e.Message, "Created pod: "))
		}
	}
	if len(names) < 2 {
		v.t.Errorf("the Events tell of %v only", names)
	}
	return names
}
