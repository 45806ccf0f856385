package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/pace"
)

// diary is a pod on a node that writes its name to a claim's volume and then sleeps.
func diary(name, node, claim string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 0
  volumes: [{name: volume, persistentVolumeClaim: {claimName: %[3]s}}]
  containers:
  - name: main
    image: localhost/redis:latest
    imagePullPolicy: Never
    command: [sh, -c, "echo %[1]s >> /volume/names; sleep infinity"]
    volumeMounts: [{name: volume, mountPath: /volume}]
`, name, node, claim)
}

func ready(t *testing.T, c *Cluster, pod string) {
	t.Helper()
	kubectl(t, c, "", "wait", "--for=condition=Ready", "pod", pod, "--timeout=170s")
}

// wantAttached waits until a volume is attached to these nodes.
func wantAttached(t *testing.T, c *Cluster, volume string, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(3*time.Minute))
	defer cancel()
	err := until(ctx, func() error {
		nodes, err := c.Storage().Attachments(volume)
		if err == nil && !slices.Equal(nodes, want) {
			err = fmt.Errorf("it is attached to %v", nodes)
		}
		return err
	})
	if err != nil {
		t.Fatalf("volume %s is not attached to %v: %v\n%s", volume, want, err, kubectl(t, c, "", "get", "pods,volumeattachments,events", "-o=wide"))
	}
}

func TestKubernetesVolumes(t *testing.T) {
	o := newTestCluster(t)
	l, c := upCluster(t, o)
	if _, err := l.AddImage(t.Context(), ImageSpec{Name: "redis", Debian: []string{"redis-server"}}); err != nil {
		t.Fatal(err)
	}
	disk, share := VolumeSpec{Name: "disk"}, VolumeSpec{Name: "files", Claim: "papers", Shared: true}
	for _, v := range []VolumeSpec{disk, share} {
		if err := c.AddVolume(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	names := func(pod string) string { return kubectl(t, c, "", "exec", pod, "--", "cat", "/volume/names") }

	t.Run("a shared volume is attached to both nodes", func(t *testing.T) {
		for _, node := range []string{"a", "b"} {
			kubectl(t, c, diary("files-"+node, node, "papers"), "apply", "-f", "-")
			ready(t, c, "files-"+node)
		}
		wantAttached(t, c, "files", "a", "b")
		if a, b := names("files-a"), names("files-b"); a != b || a != "files-a\nfiles-b" {
			t.Errorf("node a has %q, node b %q", a, b)
		}
		if b, err := os.ReadFile(filepath.Join(c.Storage().Content("files"), "names")); err != nil || len(b) == 0 {
			t.Errorf("the storage has %q, %v", b, err)
		}
		kubectl(t, c, "", "delete", "pod", "files-a")
		wantAttached(t, c, "files", "b")
	})
	t.Run("a disk goes to another node when the first has let go", func(t *testing.T) {
		kubectl(t, c, diary("first", "a", "disk"), "apply", "-f", "-")
		ready(t, c, "first")
		wantAttached(t, c, "disk", "a")
		kubectl(t, c, diary("second", "b", "disk"), "apply", "-f", "-")
		ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(3*time.Minute))
		defer cancel()
		if err := until(ctx, func() error {
			if said := kubectl(t, c, "", "get", "events", "-o=jsonpath={.items[*].message}"); !strings.Contains(said, "Multi-Attach error") {
				return fmt.Errorf("the cluster says %s", said)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		wantAttached(t, c, "disk", "a")
		start := time.Now()
		kubectl(t, c, "", "delete", "pod", "first")
		ready(t, c, "second")
		t.Logf("the second pod is ready %s after the first was deleted", time.Since(start).Round(10*time.Millisecond))
		wantAttached(t, c, "disk", "b")
		if got := names("second"); got != "first\nsecond" {
			t.Errorf("the disk has %q", got)
		}
	})
	t.Run("the driver is killed on both sides and goes on", func(t *testing.T) {
		for _, n := range []*Node{l.Node("b"), c.Control()} {
			if !n.KillService("storage") {
				t.Fatalf("no driver to kill on %s", n.Name)
			}
		}
		kubectl(t, c, "", "delete", "pod", "second")
		wantAttached(t, c, "disk")
		kubectl(t, c, diary("third", "a", "disk"), "apply", "-f", "-")
		ready(t, c, "third")
	})
	t.Run("a node with the disk dies and mounts it again", func(t *testing.T) {
		if err := l.Node("a").Kill(); err != nil {
			t.Fatal(err)
		}
		l, c = upCluster(t, o)
		ready(t, c, "third")
		if got := names("third"); !strings.HasPrefix(got, "first\nsecond\nthird") {
			t.Errorf("the disk has %q", got)
		}
	})
	t.Run("a volume is removed", func(t *testing.T) {
		kubectl(t, c, "", "delete", "pod", "files-b")
		ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(3*time.Minute))
		defer cancel()
		if err := c.RemoveVolume(ctx, share); err != nil {
			t.Error(err)
		}
		if err := c.RemoveVolume(ctx, share); err == nil {
			t.Error("it is removed twice")
		}
	})
	t.Run("down leaves nothing of a disk that is mounted where everything was killed", func(t *testing.T) {
		wantAttached(t, c, "disk", "a")
		a := l.Node("a")
		for _, pid := range []int{a.ServicePID("storage"), a.ServicePID("kubelet"), c.Control().ServicePID("csi-attacher"), c.Control().PID(), a.PID()} {
			if pid <= 0 {
				t.Fatal("something to kill does not run")
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) { // one may take another with it
				t.Fatal(err)
			}
		}
		if err := Down(t.Context(), o.Dir); err != nil {
			t.Fatal(err)
		}
		wantNoTrace(t, o)
	})
}

// orphanedLoops are loop devices that have the image of a volume which has been removed, whichever lab's it was.
func orphanedLoops(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		image := strings.TrimSpace(string(b)) // as the machine that attached it saw it
		if err == nil && strings.Contains(image, "/disk.img") && strings.HasSuffix(image, "(deleted)") {
			found = append(found, filepath.Base(filepath.Dir(filepath.Dir(file)))+" of "+image)
		}
	}
	return found
}
