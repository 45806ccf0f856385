package e2e

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab"
)

// filledIn is what a destination's shim says when a container's memory is in place, in pages.
var filledIn = regexp.MustCompile(`msg="memory is filled in" .*\bpages=(\d+) .*store_and_pod_at_most=(\d+) left_in_store=(\d+)`)

// The destination holds a pod about once while its memory is filled in: the store gives back what is in place, by the fault
// server's own count.
func TestADestinationHoldsAPodAboutOnce(t *testing.T) {
	a, b := nodes(t)
	explain(t, a, b)
	p := runPod(t, a, lab.PodSpec{Name: "held-once", Containers: []lab.ContainerSpec{redisContainer(t)}})
	w := startWriter(t, p, keys(100_000))
	w.awaitWrites(100)
	for _, to := range []*lab.Node{b, a} {
		w.stop()
		said := saidFrom(t, to)
		result := w.follow(p, to)
		pages, peak, left := said()
		t.Logf("%d pages, store and pod had %d at most, %d are left in the store", pages, peak, left)
		const page, slack = 4096, 16 << 20 // CRIU's own pages, and what has gone since it was sent
		if most := result.MemoryBytes + result.MemoryBytes*15/100 + slack; peak*page > most || peak*page < result.MemoryBytes/2 {
			t.Errorf("store and pod of %.1f MiB had %.1f MiB at most", mib(result.MemoryBytes), mib(peak*page))
		}
		if left*page > slack {
			t.Errorf("the store has %.1f MiB when everything is in place", mib(left*page))
		}
		w.write()
		w.awaitWrites(writeRate / 4)
		w.verify()
	}
}

// saidFrom returns a function that waits for what the shim of a pod which comes to a node says from now on.
func saidFrom(t *testing.T, n *lab.Node) func() (pages, peak, left uint64) {
	t.Helper()
	path := n.Log("containerd")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return func() (pages, peak, left uint64) {
		t.Helper()
		ctx := within(t, time.Minute)
		for {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if m := filledIn.FindSubmatch(b[min(int(info.Size()), len(b)):]); m != nil {
				var n [3]uint64
				for i := range n {
					if n[i], err = strconv.ParseUint(string(m[i+1]), 10, 64); err != nil {
						t.Fatal(err)
					}
				}
				return n[0], n[1], n[2]
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				t.Fatal("the shim does not say that the memory is filled in")
			}
		}
	}
}
