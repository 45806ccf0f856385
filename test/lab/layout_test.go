package lab

import (
	"net/netip"
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
			a.lockFile() == b.lockFile() {
			t.Errorf("pair %d: %+v and %+v", i, a, b)
		}
		if a.cache != b.cache {
			t.Errorf("pair %d does not share the cache", i)
		}
	}
	for _, l := range []layout{def, one, two} {
		l.base = firstBase
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

func TestAddressesAreThoseThatNobodyHas(t *testing.T) {
	prefixes := func(all ...string) []netip.Prefix {
		var p []netip.Prefix
		for _, s := range all {
			p = append(p, netip.MustParsePrefix(s))
		}
		return p
	}
	tests := []struct {
		used []netip.Prefix
		want int // 0 for none
	}{
		{nil, 88},
		{prefixes("192.168.0.0/16", "10.87.0.0/16", "10.90.0.0/15"), 88},
		{prefixes("10.88.0.0/24"), 90},
		{prefixes("10.89.7.0/24", "10.90.0.10/32"), 92},
		{prefixes("10.0.0.0/8"), 0},
	}
	for _, tt := range tests {
		if got, err := freeBase(tt.used); got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("beside %v: %d, %v; want %d", tt.used, got, err, tt.want)
		}
	}
}
