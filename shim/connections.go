package shim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// When the pod is killed, the kernel frees all its memory first and closes its sockets after that. So that the peers of its connections
// look for it at once, these are reset at the commit.
//
// To list them the kernel walks over the connections of the whole node, or rather over the table for them (inet_diag_dump_icsk in
// net/ipv4/inet_diag.c): 1 to 4 ms for each family on a node of 24 GiB. So they are listed before the freeze, and once more when the pod
// runs elsewhere, for those that have come between.

// TCP states of connections whose peer has to hear that they are over
// (kernel: include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpCloseWait   = 8
)

// connection is one end of a TCP connection.
type connection struct {
	family uint8
	id     netlink.SocketID
}

// listConnections lists the TCP connections of a process' network namespace. In the node's own are other pods', too: those of a pod
// without one stay.
func listConnections(pid int) (list []connection, err error) {
	err = inNamespace(pid, networkNamespace, func() (err error) {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			found, e := listFamily(family)
			list, err = append(list, found...), errors.Join(err, e)
		}
		return err
	})
	return list, err
}

func listFamily(family uint8) (list []connection, err error) {
	sockets, err := netlink.SocketDiagTCP(family)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	for _, s := range sockets { // one that came or went meanwhile is found later, or not missed
		switch s.State {
		case tcpEstablished, tcpFinWait1, tcpFinWait2, tcpCloseWait:
			list = append(list, connection{family: family, id: s.ID})
		}
	}
	return list, nil
}

// resetConnections resets those of the connections that there still are in a process' network namespace. A kernel
// without CONFIG_INET_DIAG_DESTROY answers that it cannot; the peers then hear of it a little later.
func resetConnections(pid int, list []connection) error {
	if len(list) == 0 {
		return nil
	}
	return inNamespace(pid, networkNamespace, func() (err error) {
		for _, c := range list {
			if e := c.reset(); e != nil && !errors.Is(e, unix.ENOENT) {
				err = errors.Join(err, fmt.Errorf("reset connection to %v: %w", net.JoinHostPort(c.id.Destination.String(), fmt.Sprint(c.id.DestinationPort)), e))
			}
		}
		return err
	})
}

// reset has the kernel end the connection and tell its peer (tcp_abort in net/ipv4/tcp.c).
func (c connection) reset() error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(c)
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// Len and Serialize make the kernel's struct inet_diag_req_v2 (include/uapi/linux/inet_diag.h) of it.
func (c connection) Len() int { return 56 }

// Serialize is described at Len.
func (c connection) Serialize() []byte {
	b := make([]byte, 0, c.Len())
	b = append(b, c.family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0)) // in whatever state
	b = binary.BigEndian.AppendUint16(b, c.id.SourcePort)
	b = binary.BigEndian.AppendUint16(b, c.id.DestinationPort)
	for _, ip := range []net.IP{c.id.Source, c.id.Destination} {
		address := ip.To16()
		if c.family == unix.AF_INET {
			address = append(slices.Clone(ip.To4()), make([]byte, 12)...)
		}
		b = append(b, address...)
	}
	b = binary.NativeEndian.AppendUint32(b, c.id.Interface)
	return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, c.id.Cookie[0]), c.id.Cookie[1])
}
