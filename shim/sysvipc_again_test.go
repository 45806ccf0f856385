package shim

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// startCat starts a process that lives as long as the test, in namespaces of its own.
func startCat(t *testing.T, namespaces uintptr) (pid int) {
	t.Helper()
	cmd := exec.Command("cat") // until its input ends
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("no namespace can be made here: ", err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestSystemVObjectsOfANamespaceAreListedAndRemoved(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("entering a namespace takes root")
	}
	pid := startCat(t, syscall.CLONE_NEWIPC)
	count := func() (counts []int) {
		objects, err := listSysV(pid)
		if err != nil {
			t.Fatal(err)
		}
		for _, ids := range objects {
			counts = append(counts, len(ids))
		}
		return counts
	}
	if got := count(); len(got) != 3 || got[0]+got[1]+got[2] != 0 {
		t.Fatalf("a new namespace has %v", got)
	}
	err := inNamespace(pid, ipcNamespace, func() error {
		if _, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, unix.IPC_CREAT|0o600); errno != 0 {
			return errno
		}
		if _, _, errno := unix.Syscall(unix.SYS_MSGGET, unix.IPC_PRIVATE, unix.IPC_CREAT|0o600, 0); errno != 0 {
			return errno
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := count(); got[0] != 1 || got[1] != 1 || got[2] != 1 {
		t.Fatalf("made one of each, there are %v", got)
	}
	made, err := listSysV(pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time they are gone
		if err := removeSysV(pid, made); err != nil {
			t.Error(err)
		}
	}
	if got := count(); got[0]+got[1]+got[2] != 0 {
		t.Errorf("left are %v", got)
	}
	if own, err := listSysV(startCat(t, 0)); err != nil || len(own) != 0 {
		t.Errorf("of the node's own namespace are listed %v, %v", own, err)
	}
}
