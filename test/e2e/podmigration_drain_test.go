package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// evictions has evictions asked about, as the chart installs it, until the test ends. There must be a controller. It may take longer
// than the chart says to answer: a busy machine would have pods evicted that are to move.
func (k *kube) evictions() {
	k.t.Helper()
	manifests, err := os.ReadFile(filepath.Join("..", "..", "contrib", "kubernetes", "godwit.yaml"))
	if err != nil {
		k.t.Fatal(err)
	}
	for object := range strings.SplitSeq(string(manifests), "\n---\n") {
		if strings.Contains(object, "\nkind: ValidatingWebhookConfiguration\n") {
			k.kubectl(strings.ReplaceAll(object, "timeoutSeconds: 5", "timeoutSeconds: 30"), "apply", "-f", "-")
			k.t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(time.Minute))
				defer cancel()
				if _, err := k.Kubectl(ctx, "", "delete", "validatingwebhookconfiguration", v1alpha1.WebhookConfiguration); err != nil {
					k.t.Error(err)
				}
			})
			k.until("the webhook known", func() bool {
				return k.kubectl("", "get", "validatingwebhookconfiguration", v1alpha1.WebhookConfiguration, "-o=jsonpath={.webhooks[0].clientConfig.caBundle}") != ""
			})
			return
		}
	}
	k.t.Fatal("the manifests have no ValidatingWebhookConfiguration")
}

// onlyOn has pods that are made meanwhile go to a node.
func (k *kube) onlyOn(n *lab.Node, make func()) {
	k.t.Helper()
	other := k.a
	if n.Name == k.a.Name {
		other = k.b
	}
	k.kubectl("", "cordon", other.Name)
	make()
	k.kubectl("", "uncordon", other.Name)
}

// movedOnDrain is a manifest of a StatefulSet whose pods move when their node is drained.
func movedOnDrain(manifest string) string {
	return strings.Replace(manifest, "metadata: {labels: {", `metadata: {labels: {godwit.dev/migrate-on-drain: "true", `, 1)
}

// A drain moves the pods of StatefulSets, with their volumes and under their names.
func TestKubernetesDrainOfStatefulSets(t *testing.T) {
	k := newKube(t)
	k.controller()
	k.evictions()
	k.volume(lab.VolumeSpec{Name: "drained", Claim: "content-disked-0"})
	k.volume(lab.VolumeSpec{Name: "alone", Claim: "content-single-0", OnePod: true})
	mounts := []string{"{name: content, mountPath: /content}"}
	withDisk := func(name, mode string) string {
		claims := `{metadata: {name: content}, spec: {accessModes: [` + mode + `], storageClassName: "", resources: {requests: {storage: 1Mi}}}}`
		return movedOnDrain(statefulSet(name, claims, mounts, strings.Replace(ticksOf(name+"-0"), " /own", " /own /content/ticks", 1)))
	}
	var members []*traveller
	k.onlyOn(k.a, func() {
		members = append(members,
			k.member("plain", movedOnDrain(statefulSet("plain", "", nil, ticksOf("plain-0")))),
			k.member("disked", withDisk("disked", "ReadWriteOnce")),
			k.member("single", withDisk("single", "ReadWriteOncePod")),
		)
	})
	disks := map[*traveller]string{members[1]: "drained", members[2]: "alone"}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(time.Minute))
		defer cancel()
		for _, args := range [][]string{{"uncordon", k.a.Name, k.b.Name}, {"delete", "podmigration", "-l", v1alpha1.LabelDrain}} {
			if _, err := k.Kubectl(ctx, "", args...); err != nil {
				t.Error(err)
			}
		}
	})
	before := map[*traveller]int{}
	for v := range disks {
		before[v] = v.linesOf("/content/ticks")
	}
	for _, n := range []*lab.Node{k.a, k.b} {
		t.Run("node "+n.Name, func(t *testing.T) {
			uids := map[string]string{}
			for _, v := range members {
				v.in(t)
				if v.node.Name != n.Name {
					t.Fatalf("pod %s is on node %s", v.pod, v.node.Name)
				}
				uids[v.pod] = string(v.get().UID)
			}
			out, err := k.Kubectl(within(t, 4*time.Minute), "", "drain", n.Name, "--pod-selector="+v1alpha1.LabelMigrateOnDrain, "--delete-emptydir-data")
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range members {
				v.checkLate(v.settled(v.drainedBy(uids[v.pod])), uids[v.pod])
			}
			for v, disk := range disks {
				v.k.attached(disk, v.node)
				after := v.linesOf("/content/ticks")
				if after <= before[v] {
					t.Errorf("%d lines on volume %s, there were %d", after, disk, before[v])
				}
				before[v] = after
			}
			k.kubectl("", "uncordon", n.Name)
		})
	}
	for _, v := range members {
		v.in(t)
		v.verify()
	}
	k.nothingLeft()
}

// drainedBy is the PodMigration by which a drain has moved a pod.
func (v *traveller) drainedBy(uid string) *v1alpha1.PodMigration {
	v.t.Helper()
	all := new(v1alpha1.PodMigrationList)
	if err := v.user.List(within(v.t, time.Minute), all, client.MatchingLabels{v1alpha1.LabelDrain: uid}); err != nil {
		v.t.Fatal(err)
	}
	if len(all.Items) != 1 {
		v.t.Fatalf("%d PodMigrations have moved pod %s", len(all.Items), v.pod)
	}
	return &all.Items[0]
}
