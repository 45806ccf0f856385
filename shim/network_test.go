package shim

import (
	"os"
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
		if got := namespacesOf(c.spec); got.network != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestARestoreRunsInItsNetworkAndWithItsMounts(t *testing.T) {
	cmd := &exec.Cmd{Path: "/usr/bin/runc", Args: []string{"runc", "restore", "c1"}}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	cmd.ExtraFiles = files[:1:2] // one more must not get into somebody else's
	network := "/proc/7/ns/net"
	if err := runShown(cmd, sharedNamespaces{network: network, uts: "/proc/7/ns/uts"}, true, testMounts(t, "/at/0", "/at/1")); err != nil {
		t.Fatal(err)
	}
	want := []string{helperShow, networkFlag, network, utsFlag, "/proc/7/ns/uts", yardFlag, tmpfsFlag, "4", "/at/0", tmpfsFlag, "5", "/at/1", "--", "/usr/bin/runc", "restore", "c1"}
	if cmd.Args[0] != cmd.Path || !slices.Equal(cmd.Args[1:], want) {
		t.Errorf("%s %q, want %q", cmd.Path, cmd.Args, want)
	}
	if len(cmd.ExtraFiles) != 3 || files[1] != os.Stdout {
		t.Errorf("it inherits %d files", len(cmd.ExtraFiles))
	}
	if !isRestoreOf(cmd.Args, "c1") {
		t.Error("nobody who looks for the restore would find it")
	}
	rest, ownYard := takeYard(cmd.Args[6:])
	mounts, rest, err := inheritedTmpfs(rest)
	if !ownYard {
		t.Error("the helper shows CRIU the node's directory for its mounts")
	}
	if err != nil || !slices.Equal(mounts, []inherited{{4, "/at/0"}, {5, "/at/1"}}) || rest[0] != "--" {
		t.Errorf("the helper takes %v for mounts and %q for the rest, %v", mounts, rest, err)
	}
	same := &exec.Cmd{Path: "/usr/bin/runc", Args: []string{"runc", "restore", "c2"}}
	if err := runShown(same, sharedNamespaces{}, false, nil); err != nil || same.Path != "/usr/bin/runc" || len(same.Args) != 3 {
		t.Errorf("without either it became %s %q, %v", same.Path, same.Args, err)
	}
}

func TestASupervisedRestoreIsShownEachTimeItIsRun(t *testing.T) {
	m := newRestoreMonitor(gorunc.Monitor)
	shown := 0
	show := func(cmd *exec.Cmd) error {
		if shown++; len(cmd.Args) != 3 {
			t.Errorf("what is run the %d. time was %q", shown, cmd.Args)
		}
		cmd.Args = append(cmd.Args, "more")
		return nil
	}
	defer m.supervise("c1", show, func(err error) bool { return err != nil })()
	if _, status, err := runFake(t, m, "2"); status != 0 || err != nil {
		t.Errorf("it ended with status %d, %v", status, err)
	}
	if shown != 3 {
		t.Errorf("it was shown %d times, and run 3 times", shown)
	}
}

func TestOnlyANamedNetworkIsEntered(t *testing.T) {
	args := []string{"a", "b", "--", "runc"}
	got, err := enterNamespaces(args)
	if err != nil || !slices.Equal(got, args) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := enterNamespaces([]string{networkFlag, "/nowhere", "--", "runc"}); err == nil {
		t.Error("a network that is not there was entered")
	}
}
