package shim

import (
	"errors"
	"fmt"
	"net"

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
	// In the node's own network are other pods' connections, too: those of a pod without one stay.
	return inNamespace(pid, networkNamespace, func() (err error) {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err = errors.Join(err, resetFamily(family))
		}
		return err
	})
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
