// Package move moves pods of the lab the way an operator does: by `godwitctl migrate --json` on the pod's node. Its events
// come as they happen, so that a test, or the bench, can act at a phase and not at a guessed time.
//
// It judges nothing: what a move must and must not do is for who asks for it.
package move

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

// ErrEnded is returned by Await when the migration ended without the event that was waited for.
var ErrEnded = errors.New("the migration ended without that event")

// ErrFailed is wrapped by the error of a migration that ended without having moved the pod.
var ErrFailed = errors.New("the pod was not moved")

// Round is one round of copying as godwitctl tells it.
type Round struct {
	Number     int     `json:"number"`
	DirtyPages uint64  `json:"dirty_pages"`
	Bytes      uint64  `json:"bytes"`
	WireBytes  uint64  `json:"wire_bytes"`
	DurationMS float64 `json:"duration_ms"`
	ScanMS     float64 `json:"scan_ms"`
	StoodMS    float64 `json:"stood_ms"` // processes stood still for the round
	// PredictedLast is what the last copy would carry if the freeze came at its end, bytes.
	PredictedLast uint64 `json:"predicted_last_bytes"`
}

// Destination is where the pod goes.
type Destination struct {
	Node    string `json:"node"`
	Sandbox string `json:"sandbox"`
	PodIP   string `json:"pod_ip"`
}

// Progress are figures of a moment. Sizes are in bytes.
type Progress struct {
	Round         int     `json:"round"`
	PagesSent     uint64  `json:"pages_sent"`
	BytesSent     uint64  `json:"bytes_sent"`
	WireBytesSent uint64  `json:"wire_bytes_sent"`
	MemoryBytes   uint64  `json:"memory_bytes"`
	StopReason    string  `json:"stop_reason"`
	Rounds        []Round `json:"rounds"`
	// Throttle is what the pod may use of processors, thousandths of a core; 0: it is not held back.
	Throttle     int    `json:"throttle_milli_cpu"`
	Fetching     bool   `json:"fetching"` // pages that were left at the source
	MissingPages uint64 `json:"missing_pages"`
	RemoteFaults uint64 `json:"remote_faults"`
}

// Event is one line of `godwitctl migrate --json`.
type Event struct {
	Kind        string       `json:"event"`
	Migration   string       `json:"migration"`
	Time        time.Time    `json:"time"`
	Phase       string       `json:"phase"`
	Message     string       `json:"message"`
	Progress    *Progress    `json:"progress"`
	Destination *Destination `json:"destination"`
	// Seen is when the line was read.
	Seen time.Time `json:"-"`
}

// Downtime are the parts of the frozen window, milliseconds.
type Downtime struct {
	Freeze  float64 `json:"freeze_ms"`
	Dump    float64 `json:"dump_ms"`
	Pages   float64 `json:"pages_ms"`
	Files   float64 `json:"files_ms"`
	CutOver float64 `json:"cutover_ms"`
	Seal    float64 `json:"seal_ms"`
	Restore float64 `json:"restore_ms"`
	Commit  float64 `json:"commit_ms"`
	Resume  float64 `json:"resume_ms"`
	Clocks  float64 `json:"clocks_ms"`
	Stages  []Stage `json:"stages"`
}

// Stage is a part of the cutover; it begins so long after the freeze, milliseconds.
type Stage struct {
	Name     string  `json:"name"`
	Begin    float64 `json:"begin_ms"`
	Duration float64 `json:"duration_ms"`
}

// Result is the last line. Sizes are in bytes.
type Result struct {
	Migration     string       `json:"migration"`
	Succeeded     bool         `json:"succeeded"`
	Phase         string       `json:"phase"`
	Error         string       `json:"error"`
	Mode          string       `json:"mode"`
	Destination   *Destination `json:"destination"`
	Engine        string       `json:"engine"`
	MemoryBytes   uint64       `json:"memory_bytes"`
	Rounds        []Round      `json:"rounds"`
	StopReason    string       `json:"stop_reason"`
	PagesSent     uint64       `json:"pages_sent"`
	ZeroPages     uint64       `json:"zero_pages"`
	DeltaPages    uint64       `json:"delta_pages"` // sent as what changed in them, of DeltaBytes
	DeltaBytes    uint64       `json:"delta_bytes"`
	Compression   string       `json:"compression"` // and why
	BytesSent     uint64       `json:"bytes_sent"`
	WireBytesSent uint64       `json:"wire_bytes_sent"`
	FileBytesSent uint64       `json:"file_bytes_sent"`
	FinalPages    uint64       `json:"final_pages"`
	FinalBytes    uint64       `json:"final_bytes"`
	ImageBytes    uint64       `json:"image_bytes"`
	LeftPages     uint64       `json:"left_pages"`
	ComparedPages uint64       `json:"compared_pages"` // with CRIU's own dump
	RemoteFaults  uint64       `json:"remote_faults"`
	PodLost       bool         `json:"lost"`
	TotalMS       float64      `json:"total_ms"`
	DowntimeMS    float64      `json:"downtime_ms"`
	Downtime      *Downtime    `json:"downtime"`
}

// Move is a migration under way.
type Move struct {
	cmd    *exec.Cmd
	events chan Event    // closed at the end
	done   chan struct{} // closed when result, exit and stderr are set
	result *Result
	exit   error
	stderr bytes.Buffer
	seen   []Event // by Await and Wait; theirs alone
}

// EnvTracker names the engine that Start asks for, as godwitctl's --tracker does, unless the flags name one or the move has
// no rounds: so that the same tests run with each. Without it, the daemon chooses.
const EnvTracker = "GODWIT_TRACKER"

// engine are the flags for what EnvTracker names.
func engine(flags []string) []string {
	name := os.Getenv(EnvTracker)
	if name == "" || slices.Contains(flags, "--tracker") || slices.Contains(flags, "cold") || slices.Contains(flags, "postcopy") {
		return nil
	}
	return []string{"--tracker", name}
}

// EnvCompare, if it is set, has Start ask for a comparison with CRIU's own dump, unless the flags ask for pages to be left
// at the source: so that any of the tests' moves can be compared.
const EnvCompare = "GODWIT_COMPARE_DUMP"

// comparing are the flags for what EnvCompare asks for.
func comparing(flags []string) []string {
	leaves := func(flag string) bool { return flag == "hybrid" || flag == "postcopy" || flag == "PostCopy" }
	if os.Getenv(EnvCompare) == "" || slices.ContainsFunc(flags, leaves) {
		return nil
	}
	return []string{"--compare-dump"}
}

// Start begins to move a pod from its node to another, with more flags of `godwitctl migrate` in flags. If ctx ends,
// godwitctl is killed; the migration then belongs to the daemon.
func Start(ctx context.Context, from *lab.Node, pod, to string, flags ...string) (*Move, error) {
	args := append([]string{"godwitctl", "migrate", pod, "--to", to, "--json"}, flags...)
	args = append(append(args, engine(flags)...), comparing(flags)...)
	m := &Move{cmd: from.Command(ctx, args...), events: make(chan Event, 4096), done: make(chan struct{})}
	m.cmd.Stderr = &m.stderr
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("godwitctl: %w", err)
	}
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("godwitctl: %w", err)
	}
	go m.read(stdout) // ends with the command
	return m, nil
}

// read takes in the lines until the command's end.
func (m *Move) read(stdout io.Reader) {
	defer close(m.done)
	defer close(m.events)
	s := bufio.NewScanner(stdout)
	s.Buffer(nil, 4<<20)
	for s.Scan() {
		e := Event{Seen: time.Now()}
		if json.Unmarshal(s.Bytes(), &e) != nil {
			continue
		}
		if e.Kind == "result" {
			m.result = new(Result)
			_ = json.Unmarshal(s.Bytes(), m.result)
			continue
		}
		select {
		case m.events <- e:
		default: // nobody looks: only the oldest are kept
		}
	}
	m.exit = m.cmd.Wait()
}

// Await returns the next event of that kind.
func (m *Move) Await(ctx context.Context, kind string) (Event, error) {
	return m.AwaitFunc(ctx, func(e Event) bool { return e.Kind == kind })
}

// AwaitFunc returns the next event that is wanted.
func (m *Move) AwaitFunc(ctx context.Context, wanted func(Event) bool) (Event, error) {
	for {
		select {
		case e, ok := <-m.events:
			if !ok {
				return Event{}, fmt.Errorf("%w: %w", ErrEnded, m.failure())
			}
			m.seen = append(m.seen, e)
			if wanted(e) {
				return e, nil
			}
		case <-ctx.Done():
			return Event{}, fmt.Errorf("await an event: %w", ctx.Err())
		}
	}
}

// Wait waits for the end. The error wraps ErrFailed if the pod was not moved; the result is there all the same, unless
// godwitctl was refused.
func (m *Move) Wait(ctx context.Context) (*Result, error) {
	select {
	case <-m.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("await the end of the migration: %w", ctx.Err())
	}
	for e := range m.events {
		m.seen = append(m.seen, e)
	}
	return m.result, m.failure()
}

// failure says why the pod was not moved; nil if it was. The command has ended.
func (m *Move) failure() error {
	<-m.done
	switch {
	case m.result != nil && m.result.Succeeded && m.exit == nil:
		return nil
	case m.result != nil:
		return fmt.Errorf("%w: %s (%v)", ErrFailed, m.result.Error, m.exit)
	}
	return fmt.Errorf("%w: %v: %s", ErrFailed, m.exit, strings.TrimSpace(m.stderr.String()))
}

// Event returns the first event of a kind among those that were read by now, after Wait: among all.
func (m *Move) Event(kind string) (Event, bool) {
	for _, e := range m.seen {
		if e.Kind == kind {
			return e, true
		}
	}
	return Event{}, false
}

// Kinds are the kinds of all events that were read by now, without progress.
func (m *Move) Kinds() []string {
	var kinds []string
	for _, e := range m.seen {
		if e.Kind != "progress" {
			kinds = append(kinds, e.Kind)
		}
	}
	return kinds
}

// Interrupt is Ctrl-C: SIGINT to godwitctl, and not to what entered the node for it.
func (m *Move) Interrupt() error {
	for _, pid := range descendants(m.cmd.Process.Pid) {
		comm, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if strings.TrimSpace(string(comm)) == "godwitctl" {
			return unix.Kill(pid, unix.SIGINT)
		}
	}
	return fmt.Errorf("interrupt godwitctl: %w", os.ErrProcessDone)
}

// descendants are a process and all below it.
func descendants(pid int) []int {
	pids := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list)
		for f := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				pids = append(pids, descendants(child)...)
			}
		}
	}
	return pids
}

// Do moves a pod and waits for the end.
func Do(ctx context.Context, from *lab.Node, pod, to string, flags ...string) (*Result, error) {
	m, err := Start(ctx, from, pod, to, flags...)
	if err != nil {
		return nil, err
	}
	return m.Wait(ctx)
}
