package main

import (
	"io"
	"slices"
	"testing"
	"time"
)

func TestFlagsSayWhatIsRun(t *testing.T) {
	for _, c := range []struct {
		name  string
		args  []string
		want  func(options) bool
		wrong bool
	}{
		{"nothing is the end-to-end tests", nil, func(o options) bool { return o.e2e && !o.bench && o.memory == 4096 }, false},
		{"a command alone", []string{"-shell", "true"}, func(o options) bool { return !o.e2e && o.shell == "true" }, false},
		{"unit tests alone", []string{"-test", "./a,./b"}, func(o options) bool { return !o.e2e && slices.Equal(o.tests, list{"./a", "./b"}) }, false},
		{"both", []string{"-test", "./a", "-test", "./b", "-e2e"}, func(o options) bool { return o.e2e && len(o.tests) == 2 }, false},
		{"engines", []string{"-engines", "soft-dirty,auto"}, func(o options) bool { return o.e2e && slices.Equal(o.engines, list{"soft-dirty", "auto"}) }, false},
		{"the newer kernel, if none is named", nil, func(o options) bool { return o.kernel.suite == "trixie" && len(o.kernel.engines) == 2 }, false},
		{"a kernel without write-protect", []string{"-kernel", "bookworm"}, func(o options) bool {
			return o.kernel.suite == "bookworm" && slices.Equal(o.kernel.engines, []string{"soft-dirty"})
		}, false},
		{"an older CRIU", []string{"-criu", "3.17"}, func(o options) bool { return o.e2e && o.criu == "3.17" }, false},
		{"no such CRIU", []string{"-criu", "2.6"}, nil, true},
		{"no such kernel", []string{"-kernel", "woody"}, nil, true},
		{"a variable with a comma", []string{"-env", "A=b,c"}, func(o options) bool { return slices.Equal(o.env, list{"A=b,c"}) }, false},
		{"a deadline", []string{"-timeout", "3m"}, func(o options) bool { return o.timeout == 3*time.Minute }, false},
		{"the bench with arguments", []string{"-bench", "-turns", "1"}, nil, true},
		{"the bench with arguments of its own", []string{"-bench", "--", "-turns", "1"}, func(o options) bool {
			return o.bench && o.counted && slices.Equal(o.benchArgs, []string{"-turns", "1"})
		}, false},
		{"tests of no package", []string{"-test-run", "x"}, nil, true},
		{"no such flag", []string{"-x"}, nil, true},
		{"an argument", []string{"redis"}, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := parseFlags(c.args, io.Discard)
			if c.wrong != (err != nil) {
				t.Fatal(err)
			}
			if !c.wrong && !c.want(o) {
				t.Errorf("%+v", o)
			}
		})
	}
}
