package shim

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCRIUEntersNoNamespaceThatHoldsSomething(t *testing.T) {
	shared := sharedNamespaces{network: "/net", ipc: "/ipc", uts: "/uts"}
	d := &departure{container: &container{shared: shared}, inNetwork: true}
	if got := d.dumpNamespaces(); got != (sharedNamespaces{network: "/net"}) {
		t.Errorf("it enters %v", got)
	}
	if d.inNamespaces = true; d.dumpNamespaces() != shared {
		t.Errorf("it enters %v only", d.dumpNamespaces())
	}
}

// newNamespaces makes a thread that is in IPC and UTS namespaces of its own, and does there what it is given.
func newNamespaces(t *testing.T) (tid int, do func(func() error) error) {
	t.Helper()
	work, done, ready := make(chan func() error), make(chan error), make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
			t.Error(err)
		}
		ready <- unix.Gettid()
		for f := range work {
			done <- f()
		}
	}()
	t.Cleanup(func() { close(work) })
	return <-ready, func(f func() error) error { work <- f; return <-done }
}

func TestAPodIsSettledUntilItsNamespacesHoldSomethingOfItsOwn(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has namespaces of its own")
	}
	for name, change := range map[string]func() error{
		"an object": func() error { _, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, unix.IPC_CREAT|0o600); return err },
		"a setting": func() error { return os.WriteFile("/proc/sys/kernel/msgmax", []byte("9000"), 0) },
		"its name":  func() error { return unix.Sethostname([]byte("another")) },
	} {
		tid, do := newNamespaces(t)
		s := testSource(0)
		s.containers = []*departure{{container: &container{shared: sharedNamespaces{ipc: "/ipc", uts: "/uts"}}, pid: tid, inNamespaces: true}}
		if s.settled() {
			t.Errorf("%s: settled, and nobody knows what it was made with", name)
		}
		var err error
		if s.settings, err = readSettings(tid); err != nil {
			t.Fatal(err)
		}
		if !s.settled() {
			t.Errorf("%s: not settled before: %v", name, s.lookSettled())
		}
		if err := do(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.stillSettled(); !errors.Is(err, errUnsettled) || s.settled() {
			t.Errorf("%s: settled after: %v", name, err)
		}
	}
}
