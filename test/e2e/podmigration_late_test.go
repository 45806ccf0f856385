package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// statefulSet is one of a single replica behind a headless Service, whose pod is a traveller's; claims are of its volumeClaimTemplates, and mounts
// of its counting container.
func statefulSet(name, claims string, mounts []string, script string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {clusterIP: None, selector: {app: %[1]s-0}, ports: [{port: 6379}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s}
spec:
  serviceName: %[1]s
  replicas: 1
  selector: {matchLabels: {app: %[1]s-0}}
  volumeClaimTemplates: [%[2]s]
  template:
    metadata: {labels: {app: %[1]s-0}}
    spec:
%[3]s`, name, claims, counter{app: name + "-0", ticksMounts: mounts, script: script}.spec("      "))
}

// member runs a StatefulSet, and is its pod.
func (k *kube) member(name, manifest string) *traveller {
	k.t.Helper()
	k.kubectl(manifest, "apply", "-f", "-")
	pod := name + "-0"
	k.until("pod "+pod, func() bool {
		_, err := k.Kubectl(k.t.Context(), "", "get", "pod", pod)
		return err == nil
	})
	k.ready(pod)
	node := k.a
	if k.kubectl("", "get", "pod", pod, "-o=jsonpath={.spec.nodeName}") == k.b.Name {
		node = k.b
	}
	v := k.travellerOf(manifest, pod, node, smallLoad)
	k.t.Cleanup(func() { // before the traveller, which would be made again
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		if _, err := k.Kubectl(ctx, "", "delete", "--wait", "statefulset,service", name); err != nil {
			k.t.Error(err)
		}
	})
	return v
}

// checkLate sees that a member has moved as one.
func (v *traveller) checkLate(m *v1alpha1.PodMigration, was string) {
	v.t.Helper()
	s := m.Status
	if m.Status.Phase != v1alpha1.PhaseSucceeded {
		v.t.Fatalf("it is %s: %s", s.Phase, s.Message)
	}
	pod := v.get()
	if !s.LatePod || s.DestinationPod == nil || s.DestinationPod.Name != pod.Name || s.DestinationPod.UID != pod.UID || string(pod.UID) == was {
		v.t.Errorf("late %v, destination's pod %+v; it is %s now and was %s", s.LatePod, s.DestinationPod, pod.UID, was)
	}
	if s.Downtime == nil || s.Downtime.Duration <= 0 {
		v.t.Log("the source's daemon has not seen the end: no downtime")
	} else {
		if !meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionRestored) {
			v.t.Errorf("conditions %+v", s.Conditions)
		}
		v.t.Logf("downtime %v, total %v", s.Downtime.Duration, s.Total.Duration)
	}
}

// A StatefulSet's pod moves under its name: the new one is made when the old one is gone.
func TestKubernetesPodMigrationsOfAStatefulSet(t *testing.T) {
	k := newKube(t)
	v := k.member("late", statefulSet("late", "", nil, ""))
	t.Run("refused where nobody would have it restored", func(t *testing.T) {
		m := v.in(t).settled(v.ask())
		if m.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(m.Status.Message, "install godwit-controller") {
			t.Errorf("it is %s: %s", m.Status.Phase, m.Status.Message)
		}
	})
	v.in(t).k.controller()
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.PodMigration)
	}{
		{"live", func(*v1alpha1.PodMigration) {}},
		{"live to a node of its choice", func(m *v1alpha1.PodMigration) { m.Spec.TargetNode = "" }},
		{"cold", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeCold }},
	} {
		t.Run(c.name, func(t *testing.T) {
			was := string(v.in(t).get().UID)
			v.checkLate(v.settled(v.ask(c.change)), was)
		})
	}
	t.Run("cancelled in the rounds", func(t *testing.T) {
		m := v.in(t).await(v.ask(crawl), "the rounds", inRounds)
		v.cancel(m)
		if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseCancelled {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
	})
	for _, c := range []struct {
		name string
		do   func(v *traveller)
	}{
		{"the source's daemon killed", func(v *traveller) { v.killDaemon(v.node) }},
		{"the destination's daemon killed", func(v *traveller) { v.killDaemon(v.elsewhere()) }},
		{"both daemons killed", func(v *traveller) { v.killDaemon(v.node); v.killDaemon(v.elsewhere()) }},
	} {
		for _, at := range []moment{
			{"in the rounds", inRounds}, {"frozen", isFrozen}, {"committed", reached(v1alpha1.PhaseMigrationComplete)}, {"claimed", isClaimed},
		} {
			t.Run(c.name+" when it is "+at.name, func(t *testing.T) {
				v.in(t).k.nodesUp()
				was := string(v.get().UID)
				m := v.await(v.ask(briskMove), "the migration "+at.name, at.is)
				c.do(v)
				end := v.settled(m)
				if at.name == "claimed" { // before, the shim decides what it ends as
					v.checkLate(end, was)
				}
			})
		}
	}
	t.Run("its new pod deleted before it is restored", func(t *testing.T) {
		v.in(t).k.nodesUp()
		was := string(v.get().UID)
		daemon := pidOf(t, v.elsewhere(), "godwit-node", "")
		letGo := v.k.keep("late-0") // until then there is no new one
		m := v.await(v.ask(briskMove), "the commit", hasCondition(v1alpha1.ConditionCommitted))
		if err := unix.Kill(daemon, unix.SIGSTOP); err != nil { // it restores nothing meanwhile
			t.Fatal(err)
		}
		goOn := sync.OnceFunc(func() { _ = unix.Kill(daemon, unix.SIGCONT) })
		t.Cleanup(goOn)
		letGo()
		v.k.until("its new pod", func() bool {
			uid, err := v.k.Kubectl(t.Context(), "", "get", "pod", "late-0", "-o=jsonpath={.metadata.uid}")
			return err == nil && string(uid) != was
		})
		claimed := string(v.get().UID)
		v.k.kubectl("", "delete", "pod", "late-0", "--force", "--grace-period=0", "--wait=false")
		goOn()
		v.checkLate(v.settled(m), claimed)
	})
	v.in(t)
	v.verify()
	k.nothingLeft()
}

func isClaimed(m *v1alpha1.PodMigration) bool {
	return m.Status.Phase.Over() || m.Status.Claim == v1alpha1.ClaimTaken
}

// A volume that one node has at a time goes along.
func TestKubernetesPodMigrationsOfAVolumeOfOneNode(t *testing.T) {
	k := newKube(t)
	k.controller()
	k.volume(lab.VolumeSpec{Name: "one", Claim: "content-keeps-0"})
	const claims = `{metadata: {name: content}, spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Mi}}}}`
	mounts := []string{"{name: content, mountPath: /content}"}
	v := k.member("keeps", statefulSet("keeps", claims, mounts, strings.Replace(ticksOf("keeps-0"), " /own", " /own /content/ticks", 1)))
	k.attached("one", v.node)
	for _, name := range []string{"there", "and back"} {
		t.Run(name, func(t *testing.T) {
			was := string(v.in(t).get().UID)
			before := v.linesOf("/content/ticks")
			v.checkLate(v.settled(v.ask()), was)
			v.k.attached("one", v.node)
			if after := v.linesOf("/content/ticks"); after <= before {
				t.Errorf("%d lines on the volume, there were %d", after, before)
			}
		})
	}
	v.in(t)
	v.verify()
	k.nothingLeft()
}

// linesOf counts the lines of a file of the pod, which must be the numbers from one on.
func (v *traveller) linesOf(file string) int {
	v.t.Helper()
	lines := strings.Fields(v.k.kubectl("", "exec", v.pod, "-c=ticks", "--", "cat", file))
	for i, line := range lines {
		if line != fmt.Sprint(i+1) {
			v.t.Fatalf("line %d of %s is %q", i+1, file, line)
		}
	}
	return len(lines)
}

// So does that of a pod that nobody owns: its copy waits until the source's node has let go of the volume.
func TestKubernetesPodMigrationsOfABarePodWithAVolumeOfOneNode(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "single"})
	manifest := counter{
		app: "single", node: k.a.Name,
		volumes:     []string{"{name: content, persistentVolumeClaim: {claimName: single}}"},
		ticksMounts: []string{"{name: content, mountPath: /content}"},
		script:      strings.Replace(ticksOf("single"), " /own", " /own /content/ticks", 1),
	}.pod("single")
	v := k.travellerOf(manifest, "single", k.a, smallLoad)
	k.attached("single", v.node)
	was := string(v.get().UID)
	before := v.linesOf("/content/ticks")
	v.checkLate(v.settled(v.ask()), was)
	k.attached("single", v.node)
	if after := v.linesOf("/content/ticks"); after <= before {
		t.Errorf("%d lines on the volume, there were %d", after, before)
	}
	v.verify()
	k.nothingLeft()
}

// A Deployment of one pod with such a volume: the pod that its ReplicaSet makes waits for the volume as well.
func TestKubernetesPodMigrationsOfADeploymentWithAVolumeOfOneNode(t *testing.T) {
	k := newKube(t)
	k.controller()
	k.volume(lab.VolumeSpec{Name: "only"})
	k.kubectl(fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: only}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: only}}
  template:
    metadata: {labels: {app: only}}
    spec:
      runtimeClassName: godwit
      terminationGracePeriodSeconds: 0
      volumes: [{name: content, persistentVolumeClaim: {claimName: only}}]
      containers:
      - name: ticks
        image: %q
        imagePullPolicy: Never
        command: [sh, -c, "i=0; while :; do i=$((i+1)); echo $i >> /content/ticks; sleep 0.2; done"]
        volumeMounts: [{name: content, mountPath: /content}]
`, theCluster.image), "apply", "-f", "-")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		for _, args := range [][]string{{"delete", "deployment", "only"}, {"delete", "podmigration", "only"}, {"wait", "--for=delete", "pod", "-l=app=only", "--timeout=170s"}} {
			if _, err := k.Kubectl(ctx, "", args...); err != nil {
				t.Error(err)
			}
		}
	})
	k.kubectl("", "rollout", "status", "deployment", "only", "--timeout=170s")
	pod := strings.Fields(k.kubectl("", "get", "pods", "-l=app=only", "-o=jsonpath={.items[*].metadata.name} {.items[*].spec.nodeName}"))
	target := k.b
	if pod[1] == k.b.Name {
		target = k.a
	}
	k.kubectl(fmt.Sprintf("apiVersion: godwit.dev/v1alpha1\nkind: PodMigration\nmetadata: {name: only}\nspec: {podName: %s, targetNode: %s}\n", pod[0], target.Name), "apply", "-f", "-")
	k.kubectl("", "wait", "--for=jsonpath={.status.phase}=Succeeded", "podmigration", "only", "--timeout=170s")
	k.kubectl("", "rollout", "status", "deployment", "only", "--timeout=170s")
	k.attached("only", target)
	now := strings.Fields(k.kubectl("", "get", "pods", "-l=app=only", "-o=jsonpath={.items[*].metadata.name} {.items[*].spec.nodeName}"))
	if len(now) != 2 || now[0] == pod[0] || now[1] != target.Name {
		t.Fatalf("it was %v and is %v", pod, now)
	}
	lines := strings.Fields(k.kubectl("", "exec", now[0], "--", "cat", "/content/ticks"))
	for i, line := range lines {
		if line != fmt.Sprint(i+1) { // one that began anew would count from one again
			t.Fatalf("line %d on the volume is %q", i+1, line)
		}
	}
	k.nothingLeft()
}
