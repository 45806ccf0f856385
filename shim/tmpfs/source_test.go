package tmpfs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// container starts a shell in a mount namespace of its own, which has a tmpfs on dir with a file in it and another tmpfs below.
func container(t *testing.T, dir string) int {
	t.Helper()
	const script = `set -e
mount -t tmpfs -o size=1m,mode=755 own "$0"
mkdir "$0/below" && echo hidden >"$0/below/hidden" && echo seen >"$0/seen"
mount -t tmpfs other "$0/below"
echo ready
read -r end`
	cmd := exec.Command("sh", "-c", script, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the container says %q, %v", line, err)
	}
	return cmd.Process.Pid
}

// only are the mounts at a path.
func only(mounts []Mount, path string) []Mount {
	for _, m := range mounts {
		if m.Path == path {
			return []Mount{m}
		}
	}
	return nil
}

func TestAMountIsSavedWithoutWhatIsMountedBelow(t *testing.T) {
	needRoot(t)
	dir := "/tmp/godwit-tmpfs-" + fmt.Sprint(os.Getpid()) // a path that needs no quoting
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	pid := container(t, dir)
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	all, err := Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	found := only(all, dir)
	if len(found) != 1 {
		t.Fatalf("found %+v", all)
	}
	gone := Mount{Path: dir + "/other", Device: found[0].Device}
	sources, err := Open(pid, []int{pid}, append(found, gone))
	if err != nil {
		t.Fatal(err)
	}
	defer Close(sources)
	if sources[0] == nil || sources[1] != nil {
		t.Fatalf("opened %+v", sources)
	}
	file := filepath.Join(t.TempDir(), "records")
	if err := sources[0].Save(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	target, err := found[0].Make()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll([]*Target{target})
	there := mounted(t, target)
	if err := target.Fill(file); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"seen": "seen\n", "below/hidden": "hidden\n"} {
		if got, err := os.ReadFile(filepath.Join(there, name)); string(got) != want {
			t.Errorf("%s has %q, %v", name, got, err)
		}
	}
	if after, err := os.Getwd(); after != before {
		t.Errorf("the working directory is %s, was %s (%v)", after, before, err)
	}
}

func TestNothingIsOpenedOfAContainerWithSeveralMountNamespaces(t *testing.T) {
	needRoot(t)
	dir := "/tmp/godwit-tmpfs-" + fmt.Sprint(os.Getpid())
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	pid := container(t, dir)
	found, err := Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	sources, err := Open(pid, []int{pid, os.Getpid()}, found)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(sources)
	for _, s := range sources {
		if s != nil {
			t.Errorf("opened %s", s.Path)
		}
	}
}
