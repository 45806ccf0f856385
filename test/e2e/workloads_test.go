package e2e

import (
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

// there and back: what a restored pod is has to be movable too.
func thereAndBack(t *testing.T, p *pod, verify func()) {
	t.Helper()
	from := p.node
	a, b := nodes(t)
	to := b
	if from == b {
		to = a
	}
	verify()
	p.moveTo(to)
	verify()
	p.moveTo(from)
	verify()
}

func TestForkingAndRemappingStormKeepsEveryPage(t *testing.T) {
	a, _ := nodes(t)
	p := program(t, a, workload.Storm, workload.Port)
	time.Sleep(2 * time.Second) // a storm needs time to rise
	thereAndBack(t, p, func() { t.Log(p.check(workload.Port)) })
}

func TestFilesSocketsAndEventsComeAlong(t *testing.T) {
	a, _ := nodes(t)
	// CRIU cannot dump an inotify watch on an overlay: there is no handle of the file.
	p := program(t, a, workload.Filer, workload.Port, "inotify")
	t.Log("aspects:", p.ask(workload.Port, "aspects"))
	thereAndBack(t, p, func() { t.Log(p.check(workload.Port)) })
}

func TestAppendedFileHasEveryLineOnce(t *testing.T) {
	a, _ := nodes(t)
	p := program(t, a, workload.Ticker, workload.Port, "/lines")
	thereAndBack(t, p, func() {
		printed, err := strconv.ParseUint(p.check(workload.Port)["lines"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(p.rootfs(workload.Ticker) + "/lines")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lines, err := workload.CheckAppended(f)
		if err != nil {
			t.Fatal(err)
		}
		if lines < printed {
			t.Fatalf("the file has %d lines, %d were written", lines, printed)
		}
	})
}

// A pod's log goes on in the new container's; the old one is what the source's node had when the pod left.
func TestLogGoesOnInTheNewContainer(t *testing.T) {
	a, b := nodes(t)
	p := program(t, a, workload.Printer, workload.Port)
	// The log's file goes with the pod, its directory too: it is opened before.
	old, err := os.Open(p.log(workload.Printer))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	time.Sleep(300 * time.Millisecond)
	p.moveTo(b)
	time.Sleep(300 * time.Millisecond)
	figures := p.check(workload.Port)
	now, err := os.Open(p.log(workload.Printer))
	if err != nil {
		t.Fatal(err)
	}
	defer now.Close()
	// A printer counts a line when it is in the pipe, and containerd takes it from there to the log when it gets to it.
	deadline := time.Now().Add(pace.Stretch(logDelay))
	for {
		err := wholeLog(t, figures, old, now)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// logDelay is how long a line may take from a pod's pipe to its log.
const logDelay = 10 * time.Second

// wholeLog says whether the logs, one after the other, have every line that was printed once.
func wholeLog(t *testing.T, figures map[string]string, logs ...io.ReadSeeker) error {
	t.Helper()
	all := workload.Printed{}
	for _, log := range logs {
		if _, err := log.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if err := all.ReadLog(log); err != nil {
			return err
		}
	}
	for _, stream := range []string{"stdout", "stderr"} {
		last, err := strconv.ParseUint(figures[stream], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if err := all.Whole(stream, last); err != nil {
			return err
		}
	}
	t.Logf("%d lines of stdout, %d of stderr", len(all["stdout"]), len(all["stderr"]))
	return nil
}

func TestSharedMemoryComesAlongAndIsSentOnce(t *testing.T) {
	const anonymous = 64 // MiB; half as much again in /dev/shm and a memfd
	a, b := nodes(t)
	p := program(t, a, workload.SharedPair, workload.Port, strconv.Itoa(anonymous))
	t.Log(p.check(workload.Port))
	r := p.moveTo(b)
	t.Log(p.check(workload.Port))
	// The content does not compress. The hot pages, 384 of them, may be sent with every round.
	const shared = anonymous * 3 / 2
	if sent := mib(r.WireBytesSent); sent < shared || sent > shared*1.35 {
		t.Errorf("%d MiB of shared memory, most of which never changes: %.1f MiB were sent", shared, sent)
	}
	if last := mib(r.FinalBytes); last > 16 {
		t.Errorf("%.1f MiB were sent while the pod was frozen", last)
	}
	p.moveTo(a)
	t.Log(p.check(workload.Port))
}

// Between two wake-ups of 1 ms there is at most this, while memory is copied.
const stallLimit = 50 * time.Millisecond

func TestTickerHardlyStallsWhileMemoryIsCopied(t *testing.T) {
	a, b := nodes(t)
	p := program(t, a, workload.Ticker, workload.Port)
	// What a busy machine spoils is tried again.
	from, to := a, b
	for try := 1; ; try++ {
		began := time.Now()
		r := p.moveTo(to)
		stalls, err := workload.Stalls(within(t, 10*time.Second), p.at(workload.Port), stallLimit, began)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("stalls: %v; %.0f ms frozen", stalls, r.DowntimeMS)
		if len(stalls) <= 1 || pace.Slow() { // one is the cutover itself
			return
		}
		if try == 3 {
			t.Fatalf("%d stalls of more than %v, one is the cutover", len(stalls), stallLimit)
		}
		from, to = to, from
	}
}
