package main

import (
	"reflect"
	"testing"

	"godwit.dev/godwit/test/lab"
)

func TestEachContainerGetsItsOwnArguments(t *testing.T) {
	tests := []struct {
		images, words []string
		want          [][]string
		bad           bool
	}{
		{images: []string{"x"}, want: [][]string{nil}},
		{images: []string{"x"}, words: []string{"a", "b"}, want: [][]string{{"a", "b"}}},
		{images: []string{"x", "y"}, words: []string{"a", "--", "b"}, want: [][]string{{"a"}, {"b"}}},
		{images: []string{"x", "y"}, words: []string{"--", "b"}, want: [][]string{nil, {"b"}}},
		{images: []string{"x"}, words: []string{"a", "--", "b"}, bad: true},
	}
	for _, tt := range tests {
		var spec lab.PodSpec
		err := addContainers(&spec, tt.images, tt.words, []string{"A=1"}, []string{"/n:/c:ro"})
		if (err != nil) != tt.bad {
			t.Errorf("%v: %v", tt, err)
		}
		if err != nil {
			continue
		}
		var got [][]string
		for _, c := range spec.Containers {
			got = append(got, c.Args)
			if len(c.Env) != 1 || len(c.Mounts) != 1 || c.Mounts[0] != (lab.Mount{Node: "/n", Container: "/c", ReadOnly: true}) {
				t.Errorf("container %+v", c)
			}
		}
		if !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%v %v: %q, want %q", tt.images, tt.words, got, tt.want)
		}
	}
}

func TestMountThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, m := range []string{"", "/a", "a:/b", "/a:b", "/a:/b:rw", "/a:/b:ro:x"} {
		if err := addContainers(&lab.PodSpec{}, []string{"x"}, nil, nil, []string{m}); err == nil {
			t.Errorf("%q is taken", m)
		}
	}
}
