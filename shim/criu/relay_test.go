package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
)

func testRelay(t *testing.T, stages ...Stage) (config, *Relay) {
	t.Helper()
	return relayOf(t, traits{quiet: true, hooks: true}, stages...)
}

func relayOf(t *testing.T, of traits, stages ...Stage) (config, *Relay) {
	t.Helper()
	c := config{path: filepath.Join(t.TempDir(), strings.Repeat("a-long-name-as-bundles-have-", 6), "criu.conf")}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		t.Fatal(err)
	}
	g, err := c.relay(of, stages...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return c, g
}

// inBackground is how a client's conversation ends.
type inBackground struct {
	resp *rpc.CriuResp
	err  error
}

func TestARelayHoldsCRIUUntilTheVerdict(t *testing.T) {
	for _, c := range []struct {
		verdict Verdict
		success bool
	}{{Go, true}, {Stop, false}} {
		files, g := testRelay(t, PreDump, PostDump)
		k := startClient(t, files, "pre-dump query-ext-files network-lock orphan-pts-master post-dump")
		done := k.start()
		if pid := pass(t, g, PreDump); pid != k.cmd.Process.Pid {
			t.Errorf("arrival names process %d, CRIU is %d", pid, k.cmd.Process.Pid)
		}
		if _, err := g.Wait(t.Context(), PostDump); err != nil {
			t.Fatal(err)
		}
		select {
		case end := <-done:
			t.Fatalf("CRIU did not wait: %v, %v", end.resp, end.err)
		case <-time.After(50 * time.Millisecond):
		}
		if err := g.Answer(c.verdict); err != nil {
			t.Fatal(err)
		}
		end := <-done
		if end.err != nil {
			t.Fatalf("%v: %s", end.err, k.said.String())
		}
		if end.resp.GetSuccess() != c.success {
			t.Errorf("verdict %d: %v", c.verdict, end.resp)
		}
		if want := "orphan-pts-master post-dump"; strings.Join(k.notified, " ") != want {
			t.Errorf("the client was notified of %q, and has a part in %s", k.notified, want)
		}
	}
}

func TestTheClientHearsOfStagesThatNobodyKnows(t *testing.T) {
	files, _ := testRelay(t)
	k := startClient(t, files, "pre-restore setup-namespaces post-setup-namespaces a-new-stage")
	resp, err := k.converse()
	if err != nil || !resp.GetSuccess() || strings.Join(k.notified, " ") != "setup-namespaces a-new-stage" {
		t.Errorf("%v, %v, notified of %q: %s", resp, err, k.notified, k.said.String())
	}
}

func TestAClientWithoutHooksHearsOfNoNamespaces(t *testing.T) {
	files, _ := relayOf(t, traits{quiet: true})
	k := startClient(t, files, "pre-restore setup-namespaces post-restore")
	resp, err := k.converse()
	if err != nil || !resp.GetSuccess() || strings.Join(k.notified, " ") != "post-restore" {
		t.Errorf("%v, %v, notified of %q: %s", resp, err, k.notified, k.said.String())
	}
}

func TestARelayStopsCRIUBeforeItServesPages(t *testing.T) {
	files, _ := testRelay(t)
	k := startClient(t, files, "pre-dump status-ready")
	resp, err := k.converse()
	if err != nil || resp.GetSuccess() || resp.GetCrErrmsg() != string(statusReady) {
		t.Errorf("%v, %v: %s", resp, err, k.said.String())
	}
}

func TestAVerdictMayComeBeforeCRIU(t *testing.T) {
	files, g := testRelay(t, PreDump)
	if err := g.Answer(Stop); err != nil {
		t.Fatal(err)
	}
	k := startClient(t, files, "pre-dump")
	if resp, err := k.converse(); err != nil || resp.GetSuccess() {
		t.Errorf("%v, %v: %s", resp, err, k.said.String())
	}
}

func TestAClosedRelayStopsWhatWaits(t *testing.T) {
	files, g := testRelay(t, PreDump)
	k := startClient(t, files, "pre-dump")
	done := k.start()
	if _, err := g.Wait(t.Context(), PreDump); err != nil {
		t.Fatal(err)
	}
	g.Close()
	if end := <-done; end.err == nil && end.resp.GetSuccess() {
		t.Errorf("CRIU went on: %v", end.resp)
	}
	if err := g.Answer(Go); err == nil {
		t.Error("a closed relay takes verdicts")
	}
}

// pass lets CRIU go from stages, and returns its pid.
func pass(t *testing.T, g *Relay, stages ...Stage) (pid int) {
	t.Helper()
	for _, stage := range stages {
		a, err := g.Wait(t.Context(), stage)
		if err == nil {
			err = g.Answer(Go)
		}
		if err != nil {
			t.Fatal(err)
		}
		pid = a.PID
	}
	return pid
}

func TestARelayThatClosesWaitsForACRIUThatWasLetGo(t *testing.T) {
	files, g := testRelay(t, PostRestore, PreResume)
	k := startClient(t, files, "post-restore pre-resume network-unlock post-resume")
	done := k.start()
	pass(t, g, PostRestore, PreResume)
	g.Close()
	if end := <-done; end.err != nil || !end.resp.GetSuccess() {
		t.Errorf("%v, %v, notified of %q", end.resp, end.err, k.notified)
	}
}

// A CRIU that hangs keeps its socket when runc, which was killed, has lost its own.
func TestARelayThatClosesDoesNotWaitForEverForACRIUThatHangs(t *testing.T) {
	files, g := testRelay(t, PostRestore, PreResume)
	g.patience = 100 * time.Millisecond
	k := startClient(t, files, "post-restore pre-resume")
	done := k.start()
	criu := pass(t, g, PostRestore)
	if _, err := g.Wait(t.Context(), PreResume); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(criu, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := g.Answer(Go); err != nil {
		t.Fatal(err)
	}
	g.Close()
	if end := <-done; end.err == nil || errors.Is(end.err, os.ErrDeadlineExceeded) {
		t.Errorf("the client takes it for ended well, or waits: %v, %v", end.resp, end.err)
	}
}

func TestARelayHearsOfACRIUThatDies(t *testing.T) {
	files, g := testRelay(t, PreDump)
	k := startClient(t, files, "pre-dump")
	done := k.start()
	a, err := g.Wait(t.Context(), PreDump)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(a.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if end := <-done; end.err == nil || errors.Is(end.err, os.ErrDeadlineExceeded) {
		t.Errorf("the client did not hear of it: %v, %v", end.resp, end.err)
	}
}
