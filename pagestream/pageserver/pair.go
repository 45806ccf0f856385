package pageserver

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// pairBuffer is how much of what criu sends may lie in the socket.
const pairBuffer = 4 << 20

// Pair makes a connection for one criu: conn is for Serve, and criu inherits
// client, which it is told of as ps.fd in a request or --ps-socket. Close
// client once criu has it, or its death will not be seen.
//
// CRIU splices pages into its socket, and into a TCP or a stream socket that
// puts references to memory (kernel: fs/splice.c, splice_to_socket, and
// unix_stream_sendmsg with MSG_SPLICE_PAGES). A pre-dump of the mode read reads
// every batch of pages into one buffer (criu/page-xfer.c,
// page_xfer_predump_pages): what the server has not taken when the next batch is
// read arrives with the content of other pages, and nobody is told. A pair of
// packet sockets copies instead, and so is right for everything.
//
// Over TCP, CRIU also corks its socket and does not push its last message, which
// arrives 200 ms late (criu/page-xfer.c, disconnect_from_page_server). A pair
// has no such delay, and no other process can connect to it.
func Pair() (conn net.Conn, client *os.File, err error) { return pair(unix.SOCK_SEQPACKET) }

// StreamPair is a Pair that passes references to memory and is faster for that.
// It is right for a dump and for a pre-dump of the mode splice, whose pages are
// those of the processes: a page that one of them writes to meanwhile is dirty.
// It must not be used for a pre-dump of the mode read.
func StreamPair() (conn net.Conn, client *os.File, err error) { return pair(unix.SOCK_STREAM) }

func pair(kind int) (conn net.Conn, client *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for criu: %w", err)
	}
	client = os.NewFile(uintptr(fds[1]), "page-server-client")
	server := os.NewFile(uintptr(fds[0]), "page-server")
	defer server.Close() // FileConn has its own
	grow(fds[1])
	if conn, err = net.FileConn(server); err != nil {
		client.Close()
		return nil, nil, fmt.Errorf("socket pair for criu: %w", err)
	}
	return conn, client, nil
}

// grow makes the send buffer as big as the process may: over the machine's
// limit with CAP_NET_ADMIN, else up to it. A small one only costs speed.
func grow(fd int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, pairBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, pairBuffer)
	}
}
