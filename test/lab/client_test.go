package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAClientWeighsAsMuchAsTheNodesAndLeavesNothing(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	leave, err := BeClient()
	if err != nil {
		t.Skip(err) // it takes root, and the controller
	}
	during, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || !strings.Contains(string(during), clientCgroup) {
		t.Errorf("it is in %s, %v", during, err)
	}
	weighs := false
	for _, h := range hierarchies() {
		for file, want := range map[string]string{"cpu.shares": "16384", "cpu.weight": "1600"} {
			b, err := os.ReadFile(filepath.Join(h.mount, clientCgroup, file))
			weighs = weighs || err == nil && strings.TrimSpace(string(b)) == want
		}
	}
	if !weighs {
		t.Error("it has no weight")
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(after) != string(before) {
		t.Errorf("it was in %s and is in %s, %v", before, after, err)
	}
	for _, h := range hierarchies() {
		if _, err := os.Stat(filepath.Join(h.mount, clientCgroup)); err == nil {
			t.Errorf("%s/%s is left", h.mount, clientCgroup)
		}
	}
}
