package census

import (
	"slices"
	"testing"
)

func TestMoreListsWhatThereIsMoreOf(t *testing.T) {
	before := Census{"process a": 1, "fd of containerd socket:[N]": 5, "mount /x": 1}
	after := Census{"process a": 2, "fd of containerd socket:[N]": 7, "uffd in b": 1}
	for _, c := range []struct {
		name  string
		slack Slack
		want  []string
	}{
		{"strict", nil, []string{"fd of containerd socket:[N]: 7, was 5", "process a: 2, was 1", "uffd in b: 1, was 0"}},
		{"slack for descriptors", Slack{"fd": 2}, []string{"process a: 2, was 1", "uffd in b: 1, was 0"}},
		{"the longest prefix counts", Slack{"fd": 9, "fd of containerd": 1, "process": 1}, []string{"fd of containerd socket:[N]: 7, was 5", "uffd in b: 1, was 0"}},
		{"all is allowed", Slack{"": 9}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var have []string
			for _, d := range before.More(after, c.slack) {
				have = append(have, d.String())
			}
			if !slices.Equal(have, c.want) {
				t.Errorf("%q, want %q", have, c.want)
			}
		})
	}
}

func TestPatternHidesWhatIsNewEachTime(t *testing.T) {
	for in, want := range map[string]string{
		"/run/godwit/store/m-20261121-d8cd78b92f/pages":                                          "/run/godwit/store/MIGRATION/pages",
		"/run/godwit/shim/8f6130b057b49daec684bfb25a89b1bd3e4aa79afce4ca1240833f62047ccc9c.sock": "/run/godwit/shim/ID.sock",
		"/run/netns/cni-6b1c2b0e-9d7b-1234-aaaa-0123456789ab":                                    "/run/netns/cni-UUID",
		"socket:[12345]":                       "socket:[N]",
		"/run/containerd/fifo/77":              "/run/containerd/fifo/N",
		"/x/io/123":                            "/x/io/ID",
		"/x/io/1234567890/8f6130b057b4-stdout": "/x/io/ID/ID-stdout",
	} {
		if have := pattern(in); have != want {
			t.Errorf("%s: %s, want %s", in, have, want)
		}
	}
}
