package criu

import (
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream/criuversion"
)

func TestACRIUIsToldOnlyWhatItKnows(t *testing.T) {
	for _, c := range []struct {
		version criuversion.Version
		skips   bool
	}{
		{criuversion.Version{Major: 3, Minor: 17, Patch: 1}, false},
		{criuversion.Version{Major: 3, Minor: 18}, false},
		{criuversion.Version{Major: 3, Minor: 19}, true},
		{criuversion.Version{Major: 4, Minor: 2, Patch: 1}, true},
	} {
		for side, lines := range map[string][]string{
			"dump":    dumpConfig("/gate", c.version, nil),
			"restore": restoreConfig("/gate", c.version, true, nil),
		} {
			if got := slices.Contains(lines, "network-lock skip"); got != c.skips {
				t.Errorf("%s with CRIU %v: network-lock skip %v", side, c.version, got)
			}
			if !slices.Contains(lines, "manage-cgroups=ignore") || !slices.Contains(lines, "action-script /gate") {
				t.Errorf("%s with CRIU %v: %q", side, c.version, lines)
			}
		}
	}
}
