package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// A program that changes a few bytes of each of its pages, over a link that takes less than it touches.
const (
	fewMiB  = 16
	fewRate = 6 // MiB a second
)

// Pages that changed but little since they were sent go as what changed, and the program, which knows what each of them
// has to hold, finds all of them right, there and back. With --whole-pages they go whole.
func TestPagesInWhichLittleChangedGoAsWhatChanged(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "few", Containers: []lab.ContainerSpec{
		container(t, workload.Rewriter, workload.Port, fmt.Sprint(fewMiB), fmt.Sprint(fewRate), "0", "few"),
	}})
	written := func() uint64 {
		t.Helper()
		n, err := strconv.ParseUint(p.check(workload.Port)["written"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// further waits until all pages have been written, and looked at, once more.
	further := func() {
		t.Helper()
		for from := written(); written() < from+2*fewMiB*256; {
			time.Sleep(100 * time.Millisecond)
		}
	}
	slow := []string{"--bandwidth", "4MiB", "--rule", "s0", "--first-rounds", "4"}
	further()
	r := p.moveTo(b, slow...)
	if r.DeltaPages == 0 || r.DeltaBytes == 0 || r.DeltaBytes > r.DeltaPages*200 {
		t.Errorf("%d pages went as deltas of %d bytes altogether, %d whole, in %d rounds", r.DeltaPages, r.DeltaBytes, r.PagesSent, len(r.Rounds))
	}
	t.Logf("%d pages as deltas, %d whole, %d bytes for %d of memory, downtime %.0f ms", r.DeltaPages, r.PagesSent, r.WireBytesSent, r.MemoryBytes, r.DowntimeMS)
	further()
	r = p.moveTo(a, append(slow, "--whole-pages")...)
	if r.DeltaPages != 0 {
		t.Errorf("%d pages went as deltas with --whole-pages", r.DeltaPages)
	}
	t.Logf("whole: %d pages, %d bytes, downtime %.0f ms", r.PagesSent, r.WireBytesSent, r.DowntimeMS)
	further()
}
