package lab

import (
	"testing"
)

func TestParseHierarchy(t *testing.T) {
	tests := []struct {
		line string
		want hierarchy
		ok   bool
	}{
		{"36 35 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory", hierarchy{mount: "/sys/fs/cgroup/memory", options: "memory"}, true},
		{"36 35 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct", hierarchy{mount: "/sys/fs/cgroup/cpu,cpuacct", options: "cpu,cpuacct"}, true},
		{"36 35 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd", hierarchy{mount: "/sys/fs/cgroup/systemd", options: "none,name=systemd"}, true},
		{"36 35 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", hierarchy{mount: "/sys/fs/cgroup", v2: true}, true},
		{"36 35 0:31 / /mnt/other rw - cgroup2 cgroup2 rw", hierarchy{}, false},
		{"36 35 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw", hierarchy{}, false},
		{"", hierarchy{}, false},
		{" - ", hierarchy{}, false},
	}
	for _, tt := range tests {
		if got, ok := parseHierarchy(tt.line); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %+v %v, want %+v %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}
