package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
	"godwit.dev/godwit/pagestream/wire/pki"
)

func codeOf(err error) int {
	if err == nil {
		return ExitOK
	}
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return ExitUsage
}

func TestExitCodeSaysWhereThePodIs(t *testing.T) {
	result := func(ok bool) *nodev1.Result { return &nodev1.Result{Succeeded: ok, Error: "why"} }
	refused := errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "no")
	for _, c := range []struct {
		name string
		last *nodev1.Event
		err  error
		want int
	}{
		{"moved", &nodev1.Event{Phase: nodev1.Phase_PHASE_SUCCEEDED, Result: result(true)}, io.EOF, ExitOK},
		{"failed", &nodev1.Event{Phase: nodev1.Phase_PHASE_FAILED, Result: result(false)}, io.EOF, ExitFailed},
		{"cancelled", &nodev1.Event{Phase: nodev1.Phase_PHASE_CANCELLED, Result: result(false)}, io.EOF, ExitCancelled},
		{"committed", &nodev1.Event{Phase: nodev1.Phase_PHASE_MIGRATION_COMPLETE, Result: result(false)}, io.EOF, ExitCommitted},
		{"refused", nil, refused, ExitRefused},
		{"daemon died", &nodev1.Event{Migration: "m-1"}, io.ErrUnexpectedEOF, ExitFailure},
	} {
		if got := codeOf(ended(c.last, c.err)); got != c.want {
			t.Errorf("%s: exit code %d, want %d", c.name, got, c.want)
		}
	}
}

// aborter counts the aborts that the command asks for.
type aborter struct {
	nodev1.NodeClient
	asked chan *nodev1.AbortRequest
}

func (a *aborter) Abort(_ context.Context, r *nodev1.AbortRequest) (*nodev1.AbortResponse, error) {
	a.asked <- r
	return &nodev1.AbortResponse{}, nil
}

func TestFirstInterruptAbortsAndWaitsForTheEnd(t *testing.T) {
	c := &aborter{asked: make(chan *nodev1.AbortRequest, 2)}
	events, interrupts := make(chan *nodev1.Event), make(chan os.Signal)
	streamErr := io.EOF
	done := make(chan error)
	go func() {
		done <- follow(context.Background(), c, events, interrupts, &streamErr, &lineView{w: io.Discard})
	}()
	events <- &nodev1.Event{Migration: "m-1", Kind: "accepted"}
	interrupts <- os.Interrupt
	if r := <-c.asked; r.Migration != "m-1" {
		t.Errorf("aborted %s", r.Migration)
	}
	events <- &nodev1.Event{Migration: "m-1", Kind: "ended", Phase: nodev1.Phase_PHASE_CANCELLED, Result: &nodev1.Result{Error: "cancelled"}}
	close(events)
	if got := codeOf(<-done); got != ExitCancelled {
		t.Errorf("exit code %d, want %d", got, ExitCancelled)
	}
}

func TestSecondInterruptLeavesAtOnce(t *testing.T) {
	c := &aborter{asked: make(chan *nodev1.AbortRequest, 2)}
	events, interrupts := make(chan *nodev1.Event), make(chan os.Signal)
	streamErr := io.EOF
	done := make(chan error)
	go func() {
		done <- follow(context.Background(), c, events, interrupts, &streamErr, &lineView{w: io.Discard})
	}()
	events <- &nodev1.Event{Migration: "m-1", Kind: "accepted"}
	interrupts <- os.Interrupt
	interrupts <- os.Interrupt
	if got := codeOf(<-done); got != ExitLeft {
		t.Errorf("exit code %d, want %d", got, ExitLeft)
	}
}

func TestJSONIsOneObjectOnEachLineAndEndsWithTheResult(t *testing.T) {
	var out bytes.Buffer
	v := &jsonView{&out}
	to := &nodev1.Destination{Node: "b", Sandbox: "s", PodIp: "192.0.2.1"}
	v.event(&nodev1.Event{Migration: "m-1", Kind: "created", Phase: nodev1.Phase_PHASE_PREPARING, Destination: to})
	last := &nodev1.Event{Migration: "m-1", Kind: "ended", Phase: nodev1.Phase_PHASE_SUCCEEDED, Destination: to, Result: &nodev1.Result{
		Succeeded: true, Engine: "WriteProtect", EngineReason: "it was asked for", Destination: to, TotalUs: 2500000, Downtime: &nodev1.Downtime{MeasuredUs: 123456},
		Totals: &nodev1.Progress{MemoryBytes: 1 << 30, BytesSent: 2 << 30, Rounds: []*nodev1.Round{{Number: 0, DirtyPages: 5, DurationUs: 1500}}},
	}}
	held := &nodev1.Progress{ThrottleMilliCpu: 800, ThrottleOfMilliCpu: 2000}
	v.event(&nodev1.Event{Migration: "m-1", Kind: "progress", Phase: nodev1.Phase_PHASE_MIGRATING, Progress: held})
	if line := progressLine(held); !strings.HasSuffix(line, ", throttled to 40 % of 2 CPUs") {
		t.Errorf("for people: %s", line)
	}
	v.event(last)
	v.close(last)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4:\n%s", len(lines), out.String())
	}
	if !strings.Contains(lines[1], `"throttle_milli_cpu":800,"throttle_of_milli_cpu":2000`) {
		t.Errorf("progress: %s", lines[1])
	}
	var created, result map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &created); err != nil {
		t.Fatal(err)
	}
	if created["destination"].(map[string]any)["pod_ip"] != "192.0.2.1" || created["event"] != "created" {
		t.Errorf("created: %v", created)
	}
	if err := json.Unmarshal([]byte(lines[3]), &result); err != nil {
		t.Fatal(err)
	}
	round := result["rounds"].([]any)[0].(map[string]any)
	if result["event"] != "result" || result["downtime_ms"] != 123.456 || result["total_ms"] != 2500.0 || result["engine"] != "WriteProtect" || result["engine_reason"] != "it was asked for" ||
		result["memory_bytes"] != float64(1<<30) || result["bytes_sent"] != float64(2<<30) || round["duration_ms"] != 1.5 || result["phase"] != "Succeeded" {
		t.Errorf("result: %v", result)
	}
}

func TestCheckFailsIfSomethingNeededIsMissing(t *testing.T) {
	for status, want := range map[preflight.Status]int{preflight.OK: ExitOK, preflight.Warning: ExitOK, preflight.Missing: ExitMissing} {
		for _, asJSON := range []bool{false, true} {
			var out bytes.Buffer
			err := (&app{json: asJSON}).printFindings(&out, []*nodev1.Finding{{Feature: "CRIU", Status: string(status), Detail: "d", Remedy: "install it"}})
			if got := codeOf(err); got != want {
				t.Errorf("%s: exit code %d, want %d", status, got, want)
			}
			if !strings.Contains(out.String(), "install it") {
				t.Errorf("remedy is not printed: %s", out.String())
			}
		}
	}
}

func TestPKICommandsMakeWhatANodeNeeds(t *testing.T) {
	dir := t.TempDir()
	ca, out := filepath.Join(dir, "ca"), filepath.Join(dir, "a")
	for _, args := range [][]string{
		{"pki", "init", "--dir", ca},
		{"pki", "issue", "--dir", ca, "--name", "a", "--ip", "192.0.2.1", "--out", out},
	} {
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(io.Discard)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{pki.CACertFile, pki.NodeCertFile, pki.NodeKeyFile} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"migrate"}, {"migrate", "p"}, {"migrate", "p", "--to", "b", "--dirty-limit", "4 bananas"}, {"migrate", "p", "--to", "b", "--tracker", "magic"},
		{"resolve", "m"}, {"resolve", "m", "--abort", "--source-is-gone"}, {"pods", "x"}, {"fly"},
	} {
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		if err := root.Execute(); codeOf(err) != ExitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
	root := newRoot()
	root.SetArgs([]string{"pods", "--socket", filepath.Join(t.TempDir(), "none")})
	if err := root.Execute(); codeOf(err) != ExitFailure {
		t.Errorf("no daemon: %v", err)
	}
}

func TestSizesAreReadable(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
}
