package shim

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestOthersWriteToWhatIsMountedAndNotCopied(t *testing.T) {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc"}, {Destination: "/dev/shm", Type: "bind"}, {Destination: "/etc/hosts", Type: "bind"},
		{Destination: "/data", Type: "bind"}, {Destination: "/data/shared/", Type: "bind"}, {Destination: "/data/shared/own", Type: "bind"},
	}
	for file, want := range map[string]bool{
		"/var/log": false, "/dev/shm/x": false, "/etc/hosts": true, "/etc/hosts.allow": false, "/proc/1/stat": false, "/data": false, "/data/x": false,
		"/data/shared": true, "/data/shared/x/y": true, "/data/shared/own/x": false, "/data/sharedx": false,
	} {
		if got := othersWrite(file, mounts, []string{"/data", "/data/shared/own"}); got != want {
			t.Errorf("%s: %t", file, got)
		}
	}
	if othersWrite("/x", nil, nil) {
		t.Error("a container without mounts")
	}
}
