package shim

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// To end a committed pod takes a processor for some 80 ms for each GiB that it has, in one go, and in the kernel, where the priority of its
// processes counts only among their own cgroup. It is the one thing that is left to do for which nobody waits. So while others on the
// node wait for processors it waits for them, for a time.
const (
	// leisureLimit is for how long at most: the memory is to be had back.
	leisureLimit = time.Second
	// leisureLook is over which time it is looked how much others wait.
	leisureLook = 25 * time.Millisecond
	// leisureShare is of how much of that time the node counts as busy in which somebody waits, as one part in so many.
	leisureShare = 5
)

// pressureFile is the kernel's account of how long processes wait for processors (Documentation/accounting/psi.rst); there is none where it
// was built or booted without.
const pressureFile = "/proc/pressure/cpu"

// awaitLeisure returns when the node's processors are not much in demand, or after leisureLimit, and at once where that is not known.
// waited tells for how long, since the node has been up, any process has waited for one.
func awaitLeisure(waited func() (time.Duration, error)) {
	before, err := waited()
	look := time.NewTicker(leisureLook)
	defer look.Stop()
	for range leisureLimit / leisureLook {
		if err != nil {
			return
		}
		<-look.C
		var now time.Duration
		if now, err = waited(); now-before < leisureLook/leisureShare {
			return
		}
		before = now
	}
}

// processorsWaitedFor is what the kernel says.
func processorsWaitedFor() (time.Duration, error) {
	b, err := os.ReadFile(pressureFile)
	if err != nil {
		return 0, err
	}
	return parsePressure(b)
}

// parsePressure reads the time in which some process waited.
func parsePressure(b []byte) (time.Duration, error) {
	for line := range bytes.Lines(b) {
		rest, some := bytes.CutPrefix(line, []byte("some "))
		_, total, has := bytes.Cut(rest, []byte("total="))
		if !some || !has {
			continue
		}
		us, err := strconv.ParseInt(string(bytes.TrimSpace(total)), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", pressureFile, err)
		}
		return time.Duration(us) * time.Microsecond, nil
	}
	return 0, fmt.Errorf("%s has no line for some processes", pressureFile)
}
