package shim

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestACutoverIsStuckWhenNothingGetsOn(t *testing.T) {
	begun := cutoverSteps{state: shimv1.State_STATE_CUTTING_OVER}
	for _, c := range []struct {
		name string
		next func(step int, last cutoverSteps) cutoverSteps
		want bool
	}{
		{"nothing happens", func(_ int, s cutoverSteps) cutoverSteps { return s }, true},
		{"what was sent is stored little by little", func(step int, s cutoverSteps) cutoverSteps {
			if step == 0 {
				s.waiting = 1 << 30
			}
			if step%(stuckLooks-1) == 0 {
				s.waiting -= 1 << 20
			}
			return s
		}, false},
		{"what was sent is not stored, and the connection kept alive", func(step int, s cutoverSteps) cutoverSteps {
			s.waiting = 1<<30 + uint64(step%2)*32
			return s
		}, true},
		{"only what keeps the connection alive is stored", func(step int, s cutoverSteps) cutoverSteps {
			s.waiting = uint64(step%2) * 32
			return s
		}, true},
		{"pages and files are sent", func(_ int, s cutoverSteps) cutoverSteps { s.sent++; return s }, false},
		{"containers are dumped", func(_ int, s cutoverSteps) cutoverSteps { s.dumps++; return s }, false},
		{"the destination restores after it, and does not say so", func(step int, s cutoverSteps) cutoverSteps {
			if step > stuckLooks {
				s.state = shimv1.State_STATE_CUT_OVER
			} else {
				s.sent++
			}
			return s
		}, true},
	} {
		clock, now, stuck := &stuckClock{limit: time.Minute}, begun, false
		for step := range 5 * stuckLooks {
			now = c.next(step, now)
			stuck = stuck || clock.stuck(now)
		}
		if stuck != c.want {
			t.Errorf("%s: stuck is %v", c.name, stuck)
		}
	}
}

func TestEveryStepGivesTheCutoverTheWholeTimeAgain(t *testing.T) {
	clock, now := &stuckClock{limit: time.Minute}, cutoverSteps{}
	for range 3 {
		now.dumps++
		for look := range stuckLooks {
			if clock.stuck(now) {
				t.Fatalf("stuck at look %d after a step", look)
			}
		}
	}
	if !clock.stuck(now) {
		t.Error("not stuck when the time is up")
	}
}

func TestStuckAfterGrowsWithMemory(t *testing.T) {
	for _, c := range []struct {
		asked, memory uint64
		want          time.Duration
	}{
		{0, 0, defaultStuckAfter},
		{2000, 0, 2 * time.Second},
		{0, 1 << 30, defaultStuckAfter + 4*time.Second},
		{1000, 64 << 30, time.Second + 256*time.Second},
	} {
		if have := stuckAfter(c.asked, c.memory); have != c.want {
			t.Errorf("%d ms asked for, %d bytes: %v, not %v", c.asked, c.memory, have, c.want)
		}
	}
}

// A process that its tracer holds for ever, as a CRIU that hangs does.
func TestAPreDumpThatHoldsTheProcessIsBrokenOff(t *testing.T) {
	runtime.LockOSThread() // the tracer is a thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, 0, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process is not held: %v %v", status, err)
	}
	watched, forget := breakOffStanding(t.Context(), cmd.Process.Pid, 100*time.Millisecond, func() uint64 { return 7 })
	defer forget()
	<-watched.Done()
	if err := context.Cause(watched); !errors.Is(err, errStuck) {
		t.Errorf("broken off because of %v", err)
	}
}

func TestAPreDumpThatGetsOnIsNotBrokenOff(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var looks atomic.Uint64
	watched, forget := breakOffStanding(t.Context(), cmd.Process.Pid, 10*time.Millisecond, func() uint64 { return looks.Add(1) })
	time.Sleep(100 * time.Millisecond) // ten times what would be too long if it were held
	if watched.Err() != nil {
		t.Errorf("broken off: %v", context.Cause(watched))
	}
	forget()
	if watched.Err() == nil {
		t.Error("the watching goes on after it was given up")
	}
}
