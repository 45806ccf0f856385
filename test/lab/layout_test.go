package lab

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLabsOfDifferentDirectoriesDoNotMeet(t *testing.T) {
	t.Setenv(EnvDir, "")
	def, err := newLayout("")
	if err != nil {
		t.Fatal(err)
	}
	one, err := newLayout("/srv/one")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvDir, "/srv/two")
	two, err := newLayout("")
	if err != nil {
		t.Fatal(err)
	}
	for i, pair := range [][2]layout{{def, one}, {one, two}, {def, two}} {
		a, b := pair[0], pair[1]
		if a.state == b.state || a.data == b.data || a.linkPrefix() == b.linkPrefix() || a.cgroup() == b.cgroup() ||
			a.lockFile() == b.lockFile() || a.management().Overlaps(b.management()) {
			t.Errorf("pair %d: %+v and %+v", i, a, b)
		}
		if a.cache != b.cache {
			t.Errorf("pair %d does not share the cache", i)
		}
	}
	for _, l := range []layout{def, one, two} {
		if n := len(l.hostLink(MaxNodes)); n >= unix.IFNAMSIZ {
			t.Errorf("link name of %d characters", n)
		}
		if !l.management().Contains(l.nodeAddr(MaxNodes-1)) || l.management().Overlaps(l.podSubnet(MaxNodes-1)) {
			t.Errorf("addresses of the last node: %s, %s", l.nodeAddr(MaxNodes-1), l.podSubnet(MaxNodes-1))
		}
	}
	if _, err := newLayout("/"); err == nil {
		t.Error("/ may be a lab")
	}
}

func TestNodesHaveNamesOfTheirOwn(t *testing.T) {
	names := defaultNames(MaxNodes)
	if !slices.Equal(names[:3], []string{"a", "b", "c"}) || names[26] != "a2" {
		t.Errorf("names %v", names[:30])
	}
	if got := len(slices.Compact(slices.Sorted(slices.Values(names)))); got != MaxNodes {
		t.Errorf("%d different names of %d", got, MaxNodes)
	}
	for _, name := range names {
		if !nodeName.MatchString(name) {
			t.Errorf("%q is no node name", name)
		}
	}
	for _, bad := range []string{"", "A", "../x", "a/b", "a.b", "1a", strings.Repeat("a", 40)} {
		if nodeName.MatchString(bad) {
			t.Errorf("%q is a node name", bad)
		}
	}
}
