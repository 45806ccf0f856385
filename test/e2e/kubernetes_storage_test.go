package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/lab/storage"
	"godwit.dev/godwit/test/pace"
)

// volume makes one and removes it when the test ends, after the pods that used it.
func (k *kube) volume(v lab.VolumeSpec) {
	k.t.Helper()
	if err := k.AddVolume(within(k.t, 3*time.Minute), v); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(3*time.Minute))
		defer cancel()
		if err := k.RemoveVolume(ctx, v); err != nil {
			k.t.Error(err)
		}
	})
}

// attached waits until a volume is attached to these nodes and mounted on no other.
func (k *kube) attached(volume string, nodes ...*lab.Node) {
	k.t.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, n.Name)
	}
	k.until(fmt.Sprintf("volume %s attached to %v alone", volume, want), func() bool {
		now, err := k.Storage().Attachments(volume)
		if err != nil {
			k.t.Fatal(err)
		}
		return slices.Equal(now, want)
	})
	for _, n := range []*lab.Node{k.a, k.b} {
		mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.PID()))
		if err != nil {
			k.t.Fatal(err)
		}
		if mounted := strings.Contains(string(mounts), "/pv/"+volume+"/") || strings.Contains(string(mounts), "~csi/"+volume+"/mount"); mounted != slices.Contains(want, n.Name) {
			k.t.Errorf("node %s has volume %s mounted: %t", n.Name, volume, mounted)
		}
	}
}

// readsWhatItWrites is a program that counts as ticksOf's does, and into a file of a volume by a descriptor that it keeps;
// by a second one it reads what it wrote, where it left off the last time, and it says in a file named wrong what it should not
// have read. A third is that of a file without a name.
func readsWhatItWrites(app string) string {
	const kept = `echo $i >&3; read -r line <&4; [ "$line" = $i ] || echo "$line for $i" >> /shared/wrong; `
	const nameless = `echo $i >&5; `
	return "mkdir -p /shared/below; exec 3>>/shared/kept 4</shared/kept 5>/shared/nameless; rm /shared/nameless; cd /shared/below; " +
		strings.Replace(ticksOf(app), "sleep 0.2", kept+nameless+"echo $i >> here; sleep 0.2", 1)
}

// library is a pod with volumes of all kinds that are not copied: one that all nodes share, and the pod's own.
func library(node string) string {
	c := counter{app: "library", node: node}.withShared("persistentVolumeClaim: {claimName: books}", readsWhatItWrites("library"))
	c.volumes = append(c.volumes,
		"{name: own, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}, {path: uid, fieldRef: {fieldPath: metadata.uid}}]}}",
		"{name: several, projected: {sources: [{configMap: {name: library}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}")
	c.redisMounts = []string{"{name: shared, mountPath: /books, subPath: below, readOnly: true}"}
	c.ticksMounts = append(c.ticksMounts, "{name: own, mountPath: /api}", "{name: several, mountPath: /several}")
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: library}\ndata: {greeting: hello}\n---\n" + c.pod("library")
}

// A volume that all nodes can have is not copied: both nodes have it for a moment, open files on it go on where they were, and
// the source's node lets go of it.
func TestKubernetesPodMigrationsWithASharedVolume(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "books", Shared: true})
	v := k.travellerOf(library(k.a.Name), "library", k.a, smallLoad)
	t.Cleanup(func() {
		if _, err := k.Kubectl(context.Background(), "", "delete", "configmap/library"); err != nil {
			t.Error(err)
		}
	})
	k.attached("books", k.a)
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.PodMigration)
		want   v1alpha1.Phase
	}{
		{"there", func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseSucceeded},
		{"and back", func(*v1alpha1.PodMigration) {}, v1alpha1.PhaseSucceeded},
		{"cold", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeCold }, v1alpha1.PhaseSucceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := v.in(t).sharedFiles()
			m := v.settled(v.ask(c.change))
			if m.Status.Phase != c.want {
				t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
			}
			v.k.attached("books", v.node)
			v.sharedFilesGrow(before)
			v.readsAPart()
			v.hasItsOwn()
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		v.in(t)
		before := v.sharedFiles()
		m := v.await(v.ask(slowMove), "the rounds", inRounds)
		v.cancel(m)
		if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseCancelled {
			t.Fatalf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
		v.k.attached("books", v.node)
		v.sharedFilesGrow(before)
	})
	v.in(t).verify()
	v.k.nothingLeft()
}

// sharedFiles counts the lines of the files of readsWhatItWrites, which must be the numbers from one on.
func (v *traveller) sharedFiles() map[string]int {
	v.t.Helper()
	pids := v.processes(v.node)
	if len(pids) != 1 {
		v.t.Fatalf("%d processes of pod %s count on node %s", len(pids), v.pod, v.node.Name)
	}
	dir := fmt.Sprintf("/proc/%d/root/shared", pids[0])
	counts := map[string]int{}
	for name, file := range map[string]string{
		"kept": filepath.Join(dir, "kept"), "here": filepath.Join(dir, "below", "here"), "nameless": fmt.Sprintf("/proc/%d/fd/5", pids[0]),
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			v.t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		for i, line := range lines[:len(lines)-1] {
			if line != strconv.Itoa(i+1) {
				v.t.Fatalf("line %d of %s on the volume is %q", i+1, name, line)
			}
		}
		counts[name] = len(lines) - 1
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains([]string{"kept", "below", "lost+found"}, e.Name()) {
			content, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			v.t.Errorf("there is %s on the volume: %.200s", e.Name(), content)
		}
	}
	return counts
}

func (v *traveller) sharedFilesGrow(before map[string]int) {
	v.t.Helper()
	v.k.until("the files of the volume growing", func() bool {
		now := v.sharedFiles()
		return now["kept"] > before["kept"] && now["here"] > before["here"] && now["nameless"] > before["nameless"]
	})
}

// readsAPart sees that the other container has a part of the volume, and only to read.
func (v *traveller) readsAPart() {
	v.t.Helper()
	if got := v.exec("redis", "test -s /books/here && ! touch /books/mine 2>&1"); !strings.Contains(got, "Read-only") {
		v.t.Errorf("the container that only reads says %q", got)
	}
}

// hasItsOwn sees that what a pod is told of itself is told of the pod that it is now.
func (v *traveller) hasItsOwn() {
	v.t.Helper()
	for file, want := range map[string]string{
		"/api/name": v.pod, "/api/uid": string(v.get().UID), "/several/name": v.pod, "/several/greeting": "hello",
	} {
		if got := v.exec("ticks", "cat "+file); got != want {
			v.t.Errorf("%s has %q, want %q", file, got, want)
		}
	}
}

// counting is a pod with what a traveller has, and one more volume, at /shared; script is what it runs beside redis.
func counting(name, node, volume, script string) string {
	return counter{app: name, node: node}.withShared(volume, script).pod(name)
}

// refused asks for a move and sees that it is refused in words, with nothing done.
func (v *traveller) refused(want string) {
	v.t.Helper()
	end := v.settled(v.ask())
	if end.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(end.Status.Message, want) {
		v.t.Errorf("it is %s: %q, want %q", end.Status.Phase, end.Status.Message, want)
	}
	if end.Status.DestinationPod != nil {
		v.t.Errorf("a pod was made: %+v", end.Status.DestinationPod)
	}
}

// A directory of the node is nobody's but the node's, unless the user says otherwise: then the pod moves, and goes on with it.
func TestKubernetesPodMigrationsWithAHostPath(t *testing.T) {
	k := newKube(t)
	common := storage.Open(storage.Dir).Content("common")
	// The storage is a directory that is the same on every node.
	if err := k.Storage().Create(t.Context(), "common", storage.Share, 0); err != nil {
		t.Fatal(err)
	}
	v := k.travellerOf(counting("common", k.a.Name, "hostPath: {path: "+common+", type: Directory}",
		"exec 3>>/shared/kept; "+strings.Replace(ticksOf("common"), "sleep 0.2", "echo $i >&3; sleep 0.2", 1)), "common", k.a, smallLoad)
	v.refused("volume shared is the directory " + common + " of its node: set the pod's annotation godwit.dev/hostpath-shared")
	k.kubectl("", "annotate", "pod", v.pod, "godwit.dev/hostpath-shared=true")
	if m := v.settled(v.ask()); m.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
	}
	v.k.until("the file of the directory growing", func() bool {
		content, err := os.ReadFile(filepath.Join(k.Storage().Content("common"), "kept"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(content), "\n") >= v.counts["/own"]
	})
	v.verify()
	v.k.nothingLeft()
}

// What a restore would wait for, or not find, is refused before anything is done.
func TestKubernetesPodMigrationsRefusedForFilesOfVolumes(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "locks", Shared: true})
	k.kubectl("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {greeting: hello}\n", "apply", "-f", "-")
	t.Cleanup(func() {
		if _, err := k.Kubectl(context.Background(), "", "delete", "configmap/words"); err != nil {
			t.Error(err)
		}
	})
	for _, c := range []struct{ name, volume, script, want string }{
		{"locks", "persistentVolumeClaim: {claimName: locks}", "exec 3>>/shared/kept; flock 3; ", "holds a lock of /shared/kept (descriptor 3), which both nodes see"},
		{"words", "configMap: {name: words}", "exec 6</shared/greeting; ", "/greeting open (descriptor 6), of a volume that the destination's pod has anew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := *k
			k.t = t
			v := k.travellerOf(counting(c.name, k.a.Name, c.volume, c.script+ticksOf(c.name)), c.name, k.a, smallLoad)
			v.refused(c.want)
			v.verify()
		})
	}
	k.nothingLeft()
}

// A lock that is taken after the check, when the pod is about to be frozen, has it let go at once.
func TestKubernetesPodMigrationsWhileALockIsTaken(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "late-lock", Shared: true})
	v := k.travellerOf(counting("locker", k.a.Name, "persistentVolumeClaim: {claimName: late-lock}",
		"exec 3>>/shared/kept; "+strings.Replace(ticksOf("locker"), "sleep 0.2", "[ -e /shared/go ] && flock 3; [ -e /shared/go ] || flock -u 3; sleep 0.2", 1)), "locker", k.a, smallLoad)
	signal := filepath.Join(k.Storage().Content("late-lock"), "go")
	m := v.await(v.ask(slowMove), "the rounds", inRounds)
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const want = "at the moment of the freeze the pod held a lock"
	if end := v.settled(m); end.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(end.Status.Message, want) {
		t.Errorf("it is %s: %q, want %q", end.Status.Phase, end.Status.Message, want)
	}
	if err := os.Remove(signal); err != nil {
		t.Fatal(err)
	}
	v.k.until("the lock released", func() bool {
		return v.exec("ticks", "flock --nonblock /shared/kept true && echo free || echo locked") == "free"
	})
	if m := v.settled(v.ask()); m.Status.Phase != v1alpha1.PhaseSucceeded {
		t.Errorf("without the lock it is %s: %s", m.Status.Phase, m.Status.Message)
	}
	v.verify()
	v.k.nothingLeft()
}

// A disk is on one node at a time: the pod, whose files are open and locked on it, is made again when the disk has come.
func TestKubernetesPodMigrationsWithADisk(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "disk"})
	script := "mkdir -p /shared/below; exec 7>/shared/below/lock; flock 7; " + readsWhatItWrites("disk")
	v := k.travellerOf(counting("disk", k.a.Name, "persistentVolumeClaim: {claimName: disk}", script), "disk", k.a, smallLoad)
	k.attached("disk", k.a)

	t.Run("refused while another pod of the node has it", func(t *testing.T) {
		v.in(t)
		other := counting("other", k.a.Name, "persistentVolumeClaim: {claimName: disk}", "sleep infinity")
		v.k.kubectl(other, "apply", "-f", "-")
		v.k.ready("other")
		v.refused("pod other has claim disk too")
		v.k.kubectl(other, "delete", "--grace-period=0", "--force", "-f", "-")
	})
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.PodMigration)
	}{
		{"there", func(*v1alpha1.PodMigration) {}},
		{"and back", func(*v1alpha1.PodMigration) {}},
		{"cold", func(m *v1alpha1.PodMigration) { m.Spec.Mode = v1alpha1.ModeCold }},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, was := v.in(t).sharedFiles(), string(v.get().UID)
			v.checkLate(v.settled(v.ask(c.change)), was)
			v.k.attached("disk", v.node)
			v.sharedFilesGrow(before)
			if got := v.exec("ticks", "flock --nonblock /shared/below/lock true && echo free || echo locked"); got != "locked" {
				t.Errorf("the file that the pod had locked is %s", got)
			}
		})
	}
	v.in(t).verify()
	v.k.nothingLeft()
}

// Files of a volume that others write to meanwhile are none the worse for it.
func TestKubernetesPodMigrationsWhileOthersWrite(t *testing.T) {
	k := newKube(t)
	k.volume(lab.VolumeSpec{Name: "news", Shared: true})
	file, err := os.Create(filepath.Join(k.Storage().Content("news"), "paper"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const follows = "exec 4</shared/paper 5<>/shared/paper; while read -r line <&4; do last=$line; done; echo $last > /shared/seen; "
	v := k.travellerOf(counting("news", k.a.Name, "persistentVolumeClaim: {claimName: news}",
		strings.Replace(ticksOf("news"), "sleep 0.2", follows+"sleep 0.2", 1)), "news", k.a, smallLoad)
	ctx, cancel := context.WithCancel(t.Context())
	var written atomic.Int64
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	writing.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if _, err := fmt.Fprintln(file, i); err != nil {
				t.Error(err)
				return
			}
			written.Store(int64(i))
			time.Sleep(time.Millisecond)
		}
	})
	for _, way := range []string{"there", "and back"} {
		t.Run(way, func(t *testing.T) {
			if m := v.in(t).settled(v.ask()); m.Status.Phase != v1alpha1.PhaseSucceeded {
				t.Fatalf("it is %s: %s", m.Status.Phase, m.Status.Message)
			}
			from := written.Load()
			v.k.until("the pod reading what another wrote after the move", func() bool {
				content, err := os.ReadFile(filepath.Join(k.Storage().Content("news"), "seen"))
				if err != nil {
					t.Fatal(err)
				}
				seen, _ := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64)
				return seen > from
			})
		})
	}
	v.in(t).verify()
	v.k.nothingLeft()
}
