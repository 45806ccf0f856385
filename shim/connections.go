package shim

import (
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TCP states of connections whose peer has to hear that they are over
// (kernel: include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpCloseWait   = 8
)

// resetConnections resets the TCP connections of a process' network namespace,
// so that their peers reconnect at once: when the pod is killed, the kernel
// frees all its memory first and closes its sockets after that. A kernel
// without CONFIG_INET_DIAG_DESTROY answers that it cannot; its peers then hear
// of it a little later.
func resetConnections(pid int) error {
	done := make(chan error, 1)
	go func() {
		// The thread is in another namespace afterwards, and must end: it is
		// never unlocked.
		runtime.LockOSThread()
		done <- resetIn(fmt.Sprintf("/proc/%d/ns/net", pid))
	}()
	return <-done
}

func resetIn(namespace string) error {
	fd, err := unix.Open(namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network namespace of the pod: %w", err)
	}
	defer unix.Close(fd)
	var own, pod unix.Stat_t
	if err := errors.Join(unix.Stat("/proc/thread-self/ns/net", &own), unix.Fstat(fd, &pod)); err != nil {
		return fmt.Errorf("network namespace of the pod: %w", err)
	}
	if own.Ino == pod.Ino {
		return nil // the node's own network: other pods' connections are in it too
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace of the pod: %w", err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if e := resetFamily(family); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

func resetFamily(family uint8) error {
	sockets, err := netlink.SocketDiagTCP(family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list connections: %w", err)
	}
	err = nil // one that came or went meanwhile ends with the pod
	for _, s := range sockets {
		switch s.State {
		case tcpEstablished, tcpFinWait1, tcpFinWait2, tcpCloseWait:
		default:
			continue
		}
		local := &net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}
		remote := &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)}
		e := netlink.SocketDestroy(local, remote)
		// The library knows addresses of IPv4 only; other peers hear with the
		// pod's end.
		if e != nil && !errors.Is(e, unix.ENOENT) && !errors.Is(e, netlink.ErrNotImplemented) {
			err = errors.Join(err, fmt.Errorf("reset connection to %v: %w", remote, e))
		}
	}
	return err
}
