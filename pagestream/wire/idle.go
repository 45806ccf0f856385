package wire

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"time"
)

// idleEvery is how often it is looked at most how much of the machine is idle.
const idleEvery = 250 * time.Millisecond

// idleProcessors knows how many processors of this machine nobody uses. Several goroutines may ask.
type idleProcessors struct {
	mu    sync.Mutex // guards what follows
	at    time.Time  // of the last look
	idle  float64    // seconds until then, of all processors together
	count float64    // between the last two looks; below 0: not known
}

func newIdleProcessors() *idleProcessors { return &idleProcessors{count: -1} }

// now is how many were idle lately, below 0 if that is not known. A nil one knows nothing.
func (p *idleProcessors) now(now time.Time) float64 {
	if p == nil {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	passed := now.Sub(p.at)
	if passed < idleEvery {
		return p.count
	}
	idle, ok := readIdle()
	switch {
	case !ok:
		p.count = -1
	case !p.at.IsZero():
		p.count = max(0, idle-p.idle) / passed.Seconds()
	}
	p.at, p.idle = now, idle
	return p.count
}

// readIdle reads the second field of /proc/uptime: the idle time of all processors together (fs/proc/uptime.c,
// uptime_proc_show). Unlike /proc/stat it does not take longer the more interrupts there are.
func readIdle() (seconds float64, ok bool) {
	content, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0, false
	}
	return parseIdle(content)
}

func parseIdle(uptime []byte) (seconds float64, ok bool) {
	fields := bytes.Fields(uptime)
	if len(fields) != 2 {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(string(fields[1]), 64)
	return seconds, err == nil && seconds >= 0
}
