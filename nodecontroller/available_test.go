package nodecontroller

import (
	"testing"
	"testing/fstest"
)

func TestTheTightestCgroupOfAllAboveCounts(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	v2 := fstest.MapFS{
		"system.slice/memory.max":                     file("1000000\n"),
		"system.slice/memory.current":                 file("900000\n"),
		"system.slice/memory.stat":                    file("anon 5\ninactive_file 300000\n"),
		"system.slice/godwit-node.service/memory.max": file("max\n"),
		"free.slice/memory.max":                       file("5000\n"),
		"free.slice/memory.current":                   file("6000\n"),
		"free.slice/memory.stat":                      file(""),
	}
	v1 := fstest.MapFS{
		"memory.limit_in_bytes":        file("9223372036854771712\n"),
		"godwit/memory.limit_in_bytes": file("70000\n"),
		"godwit/memory.usage_in_bytes": file("50000\n"),
		"godwit/memory.stat":           file("inactive_file 9\ntotal_inactive_file 1000\n"),
	}
	for _, c := range []struct {
		name  string
		root  fstest.MapFS
		at    string
		files groupFiles
		want  group
	}{
		{"of an ancestor, files that can go do not count", v2, "/system.slice/godwit-node.service", unified, group{"/system.slice", 400000}},
		{"overdrawn", v2, "/free.slice", unified, group{"/free.slice", 0}},
		{"none", v2, "/user.slice", unified, group{}},
		{"version 1", v1, "/godwit/inner", legacy, group{"/godwit", 21000}},
		{"version 1 without a limit", v1, "/", legacy, group{}},
	} {
		got, err := tightest(c.root, c.at, c.files)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	v2["bad/memory.max"] = file("many")
	if _, err := tightest(v2, "/bad", unified); err == nil {
		t.Error("a limit that is no number is taken for none")
	}
}

func TestTheMemoryCgroupOfAProcessIsFoundInEitherVersion(t *testing.T) {
	const hybrid = "5:memory:/docker/a:b\n4:cpu,cpuacct:/x\n0::/y\n"
	if at, ok := cgroupPath(hybrid, "memory"); !ok || at != "/docker/a:b" {
		t.Errorf("version 1: %q, %v", at, ok)
	}
	if at, ok := cgroupPath("0::/system.slice/s\n", "memory"); ok {
		t.Errorf("version 2 has no hierarchy of its own: %q", at)
	}
	if at, ok := cgroupPath("0::/system.slice/s\n", ""); !ok || at != "/system.slice/s" {
		t.Errorf("version 2: %q, %v", at, ok)
	}
	if _, err := ownGroup(cgroupRoot); err != nil {
		t.Error(err)
	}
}
