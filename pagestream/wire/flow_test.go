package wire

import (
	"errors"
	"testing"
	"time"
)

func TestWindowIsNotOverrunButForOneFrame(t *testing.T) {
	now := time.Unix(1000, 0)
	f := flow{window: 100}
	if f.room(1000) != nil {
		t.Error("a frame larger than the window must pass when nothing is under way")
	}
	f.add(60, now)
	if f.room(40) != nil {
		t.Error("no room for what fits")
	}
	changed := f.room(41)
	if changed == nil {
		t.Fatal("room for what does not fit")
	}
	if err := f.ack(30, 60, now); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("an acknowledgement wakes nobody")
	}
	if f.room(41) != nil {
		t.Error("no room after an acknowledgement")
	}
}

func TestAcknowledgementMustFitWhatWasSent(t *testing.T) {
	now := time.Unix(1000, 0)
	f := flow{window: 100}
	f.add(60, now)
	if err := f.ack(10, 20, now); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]uint64{{9, 20}, {10, 19}, {30, 20}, {10, 61}, {61, 61}} {
		if err := f.ack(c[0], c[1], now); !errors.Is(err, ErrProtocol) {
			t.Errorf("%d stored, %d received: %v, want ErrProtocol", c[0], c[1], err)
		}
	}
}

func TestPeerIsStuckOnlyWhileItOwes(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(1000+s, 0) }
	f := flow{window: 100}
	check := func(now int64, want time.Duration) {
		t.Helper()
		if got, _ := f.stuck(at(now)); got != want {
			t.Errorf("after %d s stuck for %v, want %v", now, got, want)
		}
	}
	check(50, 0)
	f.add(10, at(50))
	check(53, 3*time.Second)
	f.add(10, at(53)) // more work does not excuse the old
	check(54, 4*time.Second)
	f.ack(0, 5, at(55)) // bytes that come in are progress
	check(56, time.Second)
	f.ack(0, 5, at(57)) // saying the same again is none
	check(58, 3*time.Second)
	f.ack(20, 20, at(59))
	check(99, 0)
	f.add(1, at(100))
	check(101, time.Second)
}
