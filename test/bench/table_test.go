package main

import (
	"flag"
	"testing"
)

// optionsOf are the table's options with such flags.
func optionsOf(t *testing.T, args ...string) tableOptions {
	t.Helper()
	var o tableOptions
	f := flag.NewFlagSet("", flag.ContinueOnError)
	o.register(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestTheCommandSaysWhatIsNotAsUsual(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "make bench-docs"},
		{[]string{"-docs", "elsewhere"}, "make bench-docs"},
		{[]string{"-table-memory=512", "-table-sizes="}, "go run ./test/bench -only table -docs docs -table-memory=512 -table-sizes="},
		{[]string{"-table-repeat", "3", "-table-modes", "cold,live"}, "go run ./test/bench -only table -docs docs -table-repeat=3 -table-modes=cold,live"},
	} {
		if got := optionsOf(t, c.args...).command(); got != c.want {
			t.Errorf("%v: %s", c.args, got)
		}
	}
}

func TestWhatIsNotInTheTableIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"-table-modes=warm"}, {"-table-workloads=doom"}, {"-table-links=modem"}, {"-table-sizes=0"}, {"-table-sizes=64,many"}, {"-table-sizes=-1"},
	} {
		if _, _, err := optionsOf(t, args...).config(); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
	c, sizes, err := optionsOf(t, "-table-sizes=64,4096", "-table-repeat=0").config()
	if err != nil || len(sizes) != 2 || sizes[1] != 4<<30 || c.Repeat != 1 || len(c.Modes) != 7 || len(c.Links) != 3 {
		t.Errorf("%+v, %v, %v", c, sizes, err)
	}
}

func TestVersionsAreFoundInWhatProgramsSay(t *testing.T) {
	for said, want := range map[string]string{
		"Version: 4.2.1":         "4.2.1",
		"runc version 1.3.6+ds1": "1.3.6+ds1",
		"containerd github.com/containerd/containerd/v2 2.1.9 abc": "2.1.9",
		"no idea": "no idea",
	} {
		if got := version(said); got != want {
			t.Errorf("%q: %q", said, got)
		}
	}
}
