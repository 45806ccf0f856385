package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
)

// Files of a pod that kubelet makes go to the destination before that pod is made, as kubelet gives its start two minutes.

// bigFiles are one in each kind of file tree that a pod has, of bigFile bytes each.
var bigFiles = []string{"/big", "/data/big", "/memory/big", "/dev/shm/big"}

const bigFile = 6 << 20

// writeBigFiles writes them, with content that cannot be compressed, and returns their checksums.
func (k *kube) writeBigFiles(pod string) (sums string) {
	k.t.Helper()
	names := strings.Join(bigFiles, " ")
	k.kubectl("", "exec", pod, "-c=ticks", "--", "sh", "-c", fmt.Sprintf("for f in %s; do head -c %d /dev/urandom > $f || exit 1; done", names, bigFile))
	return k.sumsOfBigFiles(pod)
}

func (k *kube) sumsOfBigFiles(pod string) string {
	k.t.Helper()
	return k.kubectl("", append([]string{"exec", pod, "-c=ticks", "--", "sha256sum"}, bigFiles...)...)
}

// spooled is how much a node keeps of a migration's files before there is a pod, bytes.
func spooled(n *lab.Node, id string) (bytes int64) {
	_ = filepath.Walk(n.Path("/run/godwit/spool/"+id), func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil // it may go meanwhile
	})
	return bytes
}

func TestKubernetesFilesGoAheadOfThePod(t *testing.T) {
	k := newKube(t)
	k.run("cart", theCluster.image)
	w := k.write("cart", sceneKeys/4)
	sums := k.writeBigFiles("cart")
	before := k.files("cart")

	m := k.migrate("cart", 0) // returns when the pod is to be made, which nobody does before the next line
	if have := spooled(k.b, m.id); have < int64(len(bigFiles))*bigFile {
		t.Errorf("%d bytes of files are there when the pod is asked for, of %d files of %d", have, len(bigFiles), bigFile)
	}
	k.kubectl(k.pod("cart-moved", k.b, theCluster.image, m.id), "apply", "-f", "-")
	w.redis.AlsoAt(m.await("created").Destination.PodIp + ":" + redisPort)
	if have := spooled(k.b, m.id); have > 0 {
		t.Errorf("%d bytes of files are kept although the pod has them", have)
	}
	m.await("committed")
	k.kubectl("", "delete", "pod", "cart", "--force", "--grace-period=0")
	if ended := m.await("ended").Result; !ended.GetSucceeded() {
		t.Fatalf("ended with %s", ended.GetError())
	}
	w.awaitWrites(writeRate / 10)
	w.verify()
	k.grown("cart-moved", before)
	if now := k.sumsOfBigFiles("cart-moved"); now != sums {
		t.Errorf("the files were\n%s\nand are\n%s", sums, now)
	}
	k.nothingLeft()
}

// What breaks a move while files come that no pod is there for yet.
func TestKubernetesPodMigrationsBreakWhileFilesGoAhead(t *testing.T) {
	k := newKube(t)
	v := k.traveller("laden", k.a, smallLoad)
	sums := k.writeBigFiles(v.pod)
	for _, c := range []struct {
		name string
		do   func(v *traveller)
	}{
		{"the source's daemon killed", func(v *traveller) { v.killDaemon(v.node) }},
		{"the destination's daemon killed", func(v *traveller) { v.killDaemon(v.elsewhere()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			v.in(t).k.nodesUp()
			m := v.ask(slowMove)
			v.k.until("files in the spool", func() bool { return spooled(v.elsewhere(), "pm-"+string(m.UID)) > 1<<20 })
			c.do(v)
			end := v.settled(m)
			if end.Status.Phase != v1alpha1.PhaseFailed || end.Status.DestinationPod != nil {
				t.Errorf("it is %s, with the pod %+v: %s", end.Status.Phase, end.Status.DestinationPod, end.Status.Message)
			}
		})
	}
	t.Run("the destination's disk full", func(t *testing.T) {
		v.in(t).k.nodesUp()
		to := v.elsewhere()
		exec := func(args ...string) {
			t.Helper()
			if out, err := to.Exec(within(t, time.Minute), args...); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		exec("mount", "-t", "tmpfs", "-o", "size=80m", "small", "/run/godwit/spool") // of which 64 MiB stay free
		mounted := true
		t.Cleanup(func() {
			if mounted {
				_, _ = to.Exec(context.Background(), "umount", "-l", "/run/godwit/spool")
			}
		})
		end := v.settled(v.ask())
		if end.Status.Phase != v1alpha1.PhaseFailed || !strings.Contains(end.Status.Message, "not enough room on the disk") {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
		exec("umount", "/run/godwit/spool")
		mounted = false
	})
	t.Run("and then it moves as if nothing had been", func(t *testing.T) {
		v.in(t).k.nodesUp()
		if end := v.settled(v.ask()); end.Status.Phase != v1alpha1.PhaseSucceeded {
			t.Errorf("it is %s: %s", end.Status.Phase, end.Status.Message)
		}
		if now := v.k.sumsOfBigFiles(v.pod); now != sums {
			t.Errorf("the files were\n%s\nand are\n%s", sums, now)
		}
		v.verify()
		v.k.nothingLeft()
	})
}
