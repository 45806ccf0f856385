package nodecontroller

import (
	"testing"

	"github.com/containerd/errdefs"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

func TestModeAndTrackerOfARequestAgreeOrAreRefused(t *testing.T) {
	for _, c := range []struct{ mode, tracker, wantMode, wantTracker string }{
		{"", "", "live", "Auto"},
		{"", "auto", "live", "Auto"},
		{"live", "", "live", "Auto"},
		{"live", "write-protect", "live", "WriteProtect"},
		{"", "SoftDirty", "live", "SoftDirty"},
		{"", "none", "cold", "None"},
		{"cold", "", "cold", "None"},
		{"cold", "auto", "cold", "None"},
		{"cold", "none", "cold", "None"},
		{"live", "none", "", ""},
		{"cold", "soft-dirty", "", ""},
		{"cold", "WriteProtect", "", ""},
		{"hybrid", "", "hybrid", "Auto"},
		{"hybrid", "soft-dirty", "hybrid", "SoftDirty"},
		{"hybrid", "none", "", ""},
		{"postcopy", "", "postcopy", "None"},
		{"postcopy", "none", "postcopy", "None"},
		{"postcopy", "write-protect", "", ""},
		{"warm", "", "", ""},
		{"", "magic", "", ""},
	} {
		r := &nodev1.MigrateRequest{Pod: "p", To: "b", Mode: c.mode, Tracker: c.tracker}
		err := checkRequest(r)
		if c.wantMode == "" {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("mode %q, tracker %q: %v", c.mode, c.tracker, err)
			}
			continue
		}
		if err != nil || r.Mode != c.wantMode || r.Tracker != c.wantTracker {
			t.Errorf("mode %q, tracker %q: %s, %s, %v; want %s, %s", c.mode, c.tracker, r.Mode, r.Tracker, err, c.wantMode, c.wantTracker)
		}
	}
}

func TestPagesOfALatePodAreNotLeftAtTheSource(t *testing.T) {
	for name, r := range map[string]*nodev1.MigrateRequest{
		"hybrid": {Mode: "hybrid"}, "postcopy": {Mode: "postcopy"}, "on a stall": {OnStall: "postcopy"},
	} {
		r.Pod, r.To, r.Kubelet, r.LatePod = "p", "b", true, true
		if err := checkRequest(r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
