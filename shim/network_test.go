package shim

import (
	"os/exec"
	"slices"
	"testing"

	gorunc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCRIUWorksInANetworkThatThePodHasMadeBefore(t *testing.T) {
	pod := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/7/ns/net"}
	for name, c := range map[string]struct {
		spec *specs.Spec
		want string
	}{
		"the pod's":             {&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, pod}}}, pod.Path},
		"the node's":            {&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}}}, ""},
		"its own":               {&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}, ""},
		"of a user namespace":   {&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{pod, {Type: specs.UserNamespace}}}}, ""},
		"nothing is said of it": {&specs.Spec{}, ""},
	} {
		if got := networkOf(c.spec); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestASupervisedRestoreRunsInItsNetwork(t *testing.T) {
	m := newRestoreMonitor(gorunc.Monitor)
	defer m.supervise("c1", &supervisor{network: "/proc/7/ns/net"})()
	cmd := &exec.Cmd{Path: "/usr/bin/runc", Args: []string{"runc", "restore", "c1"}}
	by := m.supervisor(cmd)
	if by == nil || by.network != "/proc/7/ns/net" {
		t.Fatalf("it runs as %+v", by)
	}
	network := by.network
	if err := runInNetwork(cmd, network); err != nil {
		t.Fatal(err)
	}
	want := []string{helperShow, networkFlag, network, "--", "/usr/bin/runc", "restore", "c1"}
	if cmd.Args[0] != cmd.Path || !slices.Equal(cmd.Args[1:], want) {
		t.Errorf("%s %q, want %q", cmd.Path, cmd.Args, want)
	}
	if !isRestoreOf(cmd.Args, "c1") {
		t.Error("nobody who looks for the restore would find it")
	}
	same := &exec.Cmd{Path: "/usr/bin/runc", Args: []string{"runc", "restore", "c2"}}
	if err := runInNetwork(same, ""); err != nil || same.Path != "/usr/bin/runc" || len(same.Args) != 3 {
		t.Errorf("without a network it became %s %q, %v", same.Path, same.Args, err)
	}
}

func TestOnlyANamedNetworkIsEntered(t *testing.T) {
	args := []string{"a", "b", "--", "runc"}
	got, err := enterNetwork(args)
	if err != nil || !slices.Equal(got, args) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := enterNetwork([]string{networkFlag, "/nowhere", "--", "runc"}); err == nil {
		t.Error("a network that is not there was entered")
	}
}
