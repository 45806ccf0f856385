package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

// What dies in a migration whose destination kubelet makes.
func TestKubernetesFailures(t *testing.T) {
	daemonOf := func(node func(k *kube) *lab.Node) func(k *kube, sandbox string) {
		return func(k *kube, _ string) {
			if !node(k).KillDaemon() {
				k.t.Fatal("no godwit-node to kill")
			}
		}
	}
	source := daemonOf(func(k *kube) *lab.Node { return k.a })
	destination := daemonOf(func(k *kube) *lab.Node { return k.b })
	for _, c := range []struct {
		name  string
		kill  func(k *kube, sandbox string) // of the destination, once it is there
		at    string                        // the event at which it dies
		slow  uint64                        // bytes a second; 0 is as fast as it goes
		moves bool
	}{
		{"the destination's daemon while kubelet makes the pod", destination, "place", 4 << 20, false},
		{"the destination's daemon when the pod is parked", destination, "created", 4 << 20, false},
		{"the source's daemon when the pod is parked", source, "created", 4 << 20, false},
		{"the destination's shim when the pod is parked", func(k *kube, sandbox string) {
			if err := unix.Kill(pidOf(k.t, k.b, "containerd-shim", sandbox), unix.SIGKILL); err != nil {
				k.t.Fatal(err)
			}
		}, "created", 4 << 20, false},
		{"the destination's daemon after the commit", destination, "committed", 0, true},
		{"the source's daemon after the commit", source, "committed", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKube(t)
			k.run("cart", theCluster.image)
			w := k.write("cart", sceneKeys)
			w.awaitWrites(writeRate / 2)
			before := k.files("cart")
			m := k.migrate("cart", c.slow)
			k.kubectl(k.pod("cart-moved", k.b, theCluster.image, m.id), "apply", "-f", "-")
			sandbox := ""
			if c.at != "place" {
				destination := m.await("created").Destination
				sandbox = destination.Sandbox
				if c.moves {
					w.redis.AlsoAt(destination.PodIp + ":" + redisPort)
					m.await("committed")
				}
			}
			c.kill(k, sandbox)
			gone, stays := "cart-moved", "cart"
			if c.moves {
				gone, stays = "cart", "cart-moved"
				k.ready("cart-moved")
			} else {
				m.over()
			}
			// A cluster's part: it removes the copy that is not the pod.
			k.kubectl("", "delete", "pod", gone, "--force", "--grace-period=0")
			k.nothingLeft()
			w.awaitWrites(writeRate / 2)
			w.verify()
			k.grown(stays, before)
			if !c.moves && k.runs(k.b, "redis-server") {
				t.Error("the destination runs too")
			}
			if got := k.kubectl("", "get", "pod", stays, "-o=jsonpath={.status.containerStatuses[*].restartCount}"); got != "0 0" {
				t.Errorf("kubelet restarted the containers of %s: %s", stays, got)
			}
		})
	}
}

// over reads until the migration has ended, or its daemon.
func (m *migration) over() {
	for range m.queue { // what it says is of no interest
	}
}

// An image that only the source has, under a tag that the destination does not know: kubelet finds it by its digest.
func TestKubernetesImageComesFromTheSource(t *testing.T) {
	k := newKube(t)
	image, err := theCluster.lab.AddImage(within(t, moveTimeout), lab.ImageSpec{
		Name: "redis-of-a", Debian: []string{"redis-server"}, Env: []string{"ONLY=a"}, Nodes: []string{"a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	k.run("cart", image)
	w := k.write("cart", sceneKeys/4)
	before := k.files("cart")
	pinned := strings.TrimSuffix(image, ":latest") + "@" + digest(t, k.a, image)

	t.Run("and goes again when the migration is called off", func(t *testing.T) {
		k := *k
		k.t = t
		m := k.migrate("cart", 1<<20)
		k.kubectl(k.pod("cart-moved", k.b, pinned, m.id), "apply", "-f", "-")
		m.await("created")
		m.abort()
		k.kubectl("", "delete", "pod", "cart-moved", "--force", "--grace-period=0")
		k.nothingLeft() // the destination waits for kubelet to let go of the image
		if all := imagesOf(t, k.b); strings.Contains(all, "redis-of-a") {
			t.Errorf("the image is left: %s", all)
		}
	})
	m := k.migrate("cart", 0)
	k.kubectl(k.pod("cart-moved", k.b, pinned, m.id), "apply", "-f", "-")
	w.redis.AlsoAt(m.await("created").Destination.PodIp + ":" + redisPort)
	m.await("committed")
	k.kubectl("", "delete", "pod", "cart", "--force", "--grace-period=0")
	if ended := m.await("ended").Result; !ended.GetSucceeded() {
		t.Fatalf("ended with %s", ended.GetError())
	}
	w.awaitWrites(writeRate / 2)
	w.verify()
	k.grown("cart-moved", before)
	k.nothingLeft()
}

// imagesOf lists the images of a node: name, type, digest, size.
func imagesOf(t *testing.T, n *lab.Node) string {
	t.Helper()
	out, err := n.Exec(t.Context(), "ctr", "--namespace=k8s.io", "images", "ls")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// digest is that of the manifest that a name means on a node.
func digest(t *testing.T, n *lab.Node, ref string) string {
	t.Helper()
	for line := range strings.Lines(imagesOf(t, n)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == ref {
			return f[2]
		}
	}
	t.Fatalf("node %s has no image %s", n.Name, ref)
	return ""
}
