package shim

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ipcSettings are the files below /proc/sys that are of an IPC namespace (kernel: ipc/ipc_sysctl.c, ipc/mq_sysctl.c); not every kernel has all.
var ipcSettings = []string{
	"kernel/auto_msgmni", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
	"kernel/shm_rmid_forced", "fs/mqueue/msg_default", "fs/mqueue/msg_max", "fs/mqueue/msgsize_default", "fs/mqueue/msgsize_max", "fs/mqueue/queues_max",
}

// readSettings reads what a process' IPC and UTS namespaces are set to.
func readSettings(pid int) (string, error) {
	var all strings.Builder
	err := inNamespace(pid, ipcNamespace, func() error {
		for _, name := range ipcSettings {
			value, err := os.ReadFile("/proc/sys/" + name)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("setting %s of the pod: %w", name, err)
			}
			fmt.Fprintf(&all, "%s %q\n", name, value)
		}
		return nil
	})
	err = errors.Join(err, inNamespace(pid, utsNamespace, func() error {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return fmt.Errorf("names of the pod: %w", err)
		}
		fmt.Fprintf(&all, "names %q %q\n", unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Domainname[:]))
		return nil
	}))
	return all.String(), err
}

// errUnsettled: the images would lack what nobody has dumped.
var errUnsettled = errors.New("the pod made its first System V object, or changed a setting of its own, while it was about to be frozen; move it again")

// settled says whether the pod's IPC and UTS namespaces hold nothing that has to be carried: no System V object, and settings as the pod's sandbox
// had them when it was made, and will have them on any node.
func (s *source) settled() bool {
	for _, c := range s.containers {
		if c.shared.ipc == "" || c.shared.uts == "" {
			return false
		}
	}
	if s.settings == "" {
		return false
	}
	err := s.lookSettled()
	if err != nil && !errors.Is(err, errUnsettled) {
		s.log.Warn("CRIU looks at the pod's namespaces for each container", "error", err)
	}
	return err == nil
}

// stillSettled is an error if the frozen pod has what CRIU was not to look at.
func (s *source) stillSettled() error {
	if !s.containers[0].inNamespaces {
		return nil
	}
	return s.lookSettled()
}

func (s *source) lookSettled() error {
	pid := s.containers[0].pid
	objects, err := listSysV(pid)
	if err != nil {
		return fmt.Errorf("IPC namespace of the pod: %w", err)
	}
	for _, ids := range objects {
		if len(ids) > 0 {
			return errUnsettled
		}
	}
	now, err := readSettings(pid)
	if err == nil && now != s.settings {
		err = errUnsettled
	}
	return err
}
