package processcheck

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// families that CRIU does not dump, by what users call them (criu/sockets.c,
// dump_socket knows five). Any other is named by its number.
var families = map[int]string{
	unix.AF_VSOCK: "AF_VSOCK", unix.AF_ALG: "AF_ALG (the kernel's ciphers)", unix.AF_XDP: "AF_XDP", unix.AF_BLUETOOTH: "Bluetooth",
	unix.AF_CAN: "CAN", unix.AF_RDS: "RDS", unix.AF_TIPC: "TIPC", unix.AF_KCM: "KCM", unix.AF_SMC: "SMC", unix.AF_RXRPC: "RxRPC",
	unix.AF_PPPOX: "PPPoX", unix.AF_QIPCRTR: "QRTR",
}

// protocols on which CRIU dumps inet sockets that are not raw (criu/sk-inet.c,
// can_dump_ipproto).
var protocols = []int{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}

func (c *scope) judgeSocket(f *File) []obstacle.Finding {
	s := f.Socket
	if s == nil {
		return nil // it was closed
	}
	switch s.Family {
	case unix.AF_INET, unix.AF_INET6:
		return c.judgeInet(f, s)
	case unix.AF_NETLINK:
		return c.judgeNetlink(f, s)
	case unix.AF_UNIX:
		return c.judgeUnix(f, s)
	case unix.AF_PACKET:
		return nil
	}
	family, ok := families[s.Family]
	if !ok {
		family = fmt.Sprintf("address family %d", s.Family)
	}
	return c.cannot(fmt.Sprintf("a socket of %s (descriptor %d)", family, f.FD), "configure it not to use any")
}

func (c *scope) judgeInet(f *File, s *Socket) []obstacle.Finding {
	name := fmt.Sprintf("(descriptor %d)", f.FD)
	switch {
	case s.Type != unix.SOCK_RAW && s.Protocol == unix.IPPROTO_MPTCP:
		return c.cannot("a multipath TCP socket "+name, "turn multipath TCP off, by GODEBUG=multipathtcp=0 for a Go program")
	case s.Type != unix.SOCK_RAW && s.Protocol == unix.IPPROTO_SCTP:
		return c.cannot("an SCTP socket "+name, "have it use TCP")
	case s.Type != unix.SOCK_RAW && !slices.Contains(protocols, s.Protocol):
		return c.cannot(fmt.Sprintf("a socket of protocol %d %s", s.Protocol, name), "have it use TCP or UDP")
	case s.Type != unix.SOCK_STREAM && s.Type != unix.SOCK_DGRAM && s.Type != unix.SOCK_RAW:
		return c.cannot(fmt.Sprintf("an inet socket of type %d %s", s.Type, name), "have it use TCP or UDP")
	case s.Corked:
		// criu/sk-inet.c, do_dump_one_inet_fd
		return c.cannot("a corked UDP socket "+name, "have it send without UDP_CORK")
	}
	// The restored socket is bound to where it was (criu/sk-inet.c, open_inet_sk).
	// Established connections are closed, and bound to nothing.
	if s.Local.Port() != 0 && !s.connected() && slices.Contains(c.snapshot.Addresses, s.Local.Addr()) {
		return []obstacle.Finding{c.refuse(fmt.Sprintf("listens on %v, the pod's own address, which it does not keep", s.Local), "have it listen on all addresses, 0.0.0.0 or ::")}
	}
	return nil
}

func (c *scope) judgeNetlink(f *File, s *Socket) []obstacle.Finding {
	switch {
	case s.HighGroup:
		// criu/sk-netlink.c, dump_one_netlink_fd
		return c.cannot(fmt.Sprintf("a netlink socket in a group beyond the 32nd (descriptor %d)", f.FD), "close it")
	case s.Unread:
		// can_dump_netlink_sk; it may have been read by then.
		return []obstacle.Finding{c.warn(fmt.Sprintf("has unread messages on a netlink socket (descriptor %d)", f.FD), "the move fails if there are any when the pod is frozen")}
	}
	return nil
}

// judgeUnix finds connections that leave the container: CRIU restores both ends
// or none (criu/sk-unix.c, dump_external_sockets).
//
// The link names the inode: Check takes for lasting only what is the same socket.
func (c *scope) judgeUnix(f *File, s *Socket) []obstacle.Finding {
	if s.Foreign {
		// unix_process_name and lookup_socket: only sockets of the pod's network
		// namespace are collected.
		return c.cannot(fmt.Sprintf("a unix socket (descriptor %d, %s) that was made outside of the pod", f.FD, f.Link), "close it")
	}
	if s.Peer == 0 || holdsSocket(c.container, s.Peer) {
		return nil
	}
	whose := "outside of the pod"
	for i := range c.snapshot.Containers {
		if other := &c.snapshot.Containers[i]; holdsSocket(other, s.Peer) {
			whose = "in container " + other.Name
		}
	}
	return c.cannot(fmt.Sprintf("a unix socket (descriptor %d, %s) connected to one %s", f.FD, f.Link, whose), "close the connection, or use TCP")
}

func holdsSocket(state *ContainerState, inode uint64) bool {
	for _, p := range state.Processes {
		for _, f := range p.Files {
			if f.Type == unix.S_IFSOCK && f.Inode == inode {
				return true
			}
		}
	}
	return false
}
