package processcheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// socket asks a socket of the process what it is: by a copy of its descriptor,
// as /proc and sock_diag do not know every kind. It is nil for one that was
// closed meanwhile.
func (g *gatherer) socket(p *Process, handle int, f *File) (*Socket, error) {
	fd, err := unix.PidfdGetfd(handle, f.FD, 0)
	if errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("copy of it: %w", err)
	}
	defer unix.Close(fd)
	// The number may be another file's by now.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != f.Inode {
		return nil, err
	}
	s := new(Socket)
	for option, value := range map[int]*int{unix.SO_DOMAIN: &s.Family, unix.SO_TYPE: &s.Type, unix.SO_PROTOCOL: &s.Protocol} {
		if *value, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err != nil {
			return nil, fmt.Errorf("ask it: %w", err)
		}
	}
	switch s.Family {
	case unix.AF_INET, unix.AF_INET6:
		s.askInet(fd)
	case unix.AF_NETLINK:
		s.askNetlink(fd)
	case unix.AF_UNIX:
		err = g.askUnix(s, p, f.Inode)
	}
	return s, err
}

// askInet leaves out what the socket does not tell.
func (s *Socket) askInet(fd int) {
	if name, err := unix.Getsockname(fd); err == nil {
		switch a := name.(type) {
		case *unix.SockaddrInet4:
			s.Local = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		case *unix.SockaddrInet6:
			s.Local = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
		}
	}
	if s.Type == unix.SOCK_STREAM && (s.Protocol == unix.IPPROTO_TCP || s.Protocol == 0) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO); err == nil {
			s.State = int(info.State)
		}
	}
	if s.Type == unix.SOCK_DGRAM {
		cork, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_CORK)
		s.Corked = err == nil && cork != 0
	}
}

// askNetlink does not read, not even by peeking: that would take an error from
// the socket, or have the kernel go on with an answer.
func (s *Socket) askNetlink(fd int) {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(ready, 0)
	s.Unread = err == nil && n == 1 && ready[0].Revents&unix.POLLIN != 0
	var groups [8]uint32 // a bit for each
	size := uint32(unsafe.Sizeof(groups))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS,
		uintptr(unsafe.Pointer(&groups)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return
	}
	for _, bits := range groups[1:] {
		s.HighGroup = s.HighGroup || bits != 0
	}
}

// askUnix finds whom a unix socket is connected to, as the kernel lists them for
// a network namespace.
func (g *gatherer) askUnix(s *Socket, p *Process, inode uint64) error {
	peers, ok := g.peers[p.Namespaces["net"]]
	if !ok {
		var err error
		if peers, err = unixPeers(p.PID); err != nil {
			return err
		}
		g.peers[p.Namespaces["net"]] = peers
	}
	peer, listed := peers[inode]
	s.Peer, s.Foreign = peer, !listed
	return nil
}

// A message about one unix socket (kernel: include/uapi/linux/unix_diag.h,
// unix_diag_msg), which attributes follow.
const (
	unixDiagInode  = 4  // where its inode is
	unixDiagLength = 16 // of the message itself
	unixDiagPeer   = 2  // the attribute with the peer's inode
	unixShowPeer   = 4  // asks for it
)

// unixPeers are the unix sockets of the process's network namespace, each with
// its peer, or 0.
func unixPeers(pid int) (map[uint64]uint64, error) {
	ns, err := netns.GetFromPath(proc(pid, "ns", "net"))
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer socket.Close()
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: {Socket: socket}}
	question := make([]byte, 24) // unix_diag_req
	question[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(question[4:], ^uint32(0)) // in all states
	binary.NativeEndian.PutUint32(question[12:], unixShowPeer)
	request.AddRawData(question)
	answers, err := request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	peers := make(map[uint64]uint64, len(answers))
	for _, answer := range answers {
		inode, peer, err := decodeUnixDiag(answer)
		if err != nil {
			return nil, fmt.Errorf("list unix sockets: %w", err)
		}
		peers[inode] = peer
	}
	return peers, nil
}

// decodeUnixDiag reads what the kernel says of one unix socket.
func decodeUnixDiag(message []byte) (inode, peer uint64, err error) {
	if len(message) < unixDiagLength {
		return 0, 0, fmt.Errorf("a message of %d bytes", len(message))
	}
	inode = uint64(binary.NativeEndian.Uint32(message[unixDiagInode:]))
	attributes, err := nl.ParseRouteAttr(message[unixDiagLength:])
	if err != nil {
		return 0, 0, fmt.Errorf("attributes of socket %d: %w", inode, err)
	}
	for _, a := range attributes {
		if a.Attr.Type == unixDiagPeer && len(a.Value) >= 4 {
			peer = uint64(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return inode, peer, nil
}
