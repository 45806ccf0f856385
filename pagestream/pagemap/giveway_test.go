package pagemap

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoGivesWayIsNicerOnlyMeanwhile(t *testing.T) {
	var thread, before, meanwhile int
	before, err := nice(unix.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	GiveWay(func() {
		thread = unix.Gettid()
		meanwhile, err = nice(thread)
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := min(before+wayGiven, 19); meanwhile != want {
		t.Errorf("its nice value is %d meanwhile, want %d", meanwhile, want)
	}
	if after, err := nice(thread); err == nil && after != before {
		t.Errorf("its nice value is %d after it, was %d", after, before)
	}
}
