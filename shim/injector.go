package shim

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"godwit.dev/godwit/pagestream/track"
)

// startHelper starts a helper of the shim's own binary, with files as its
// descriptors from 3 on. The shim's own standard streams stay its own.
func startHelper(files []*os.File, args ...string) (*reaped, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the shim's own binary: %w", err)
	}
	cmd := exec.Command(self, args...)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return startReaped(cmd)
}

// newInjector returns a helper that makes userfaultfds in a process of its own.
func newInjector() *track.Helper {
	return track.NewHelper(func(socket *os.File) (func() error, error) {
		p, err := startHelper([]*os.File{socket}, helperInject)
		if err != nil {
			return nil, err
		}
		return p.wait, nil
	})
}

func runInject() error { return track.ServeInjectorFD(track.HelperFD) }
