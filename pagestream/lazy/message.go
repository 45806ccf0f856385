package lazy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Keeper and server talk over a SOCK_SEQPACKET, in messages of one size, some of
// which carry a userfaultfd. Both are the same program.
type kind uint32

const (
	// Keeper to server. memoryMsg hands over a memory, endedMsg names one that
	// needs nothing more, heldMsg hands over the pidfd of the holder of an earlier
	// server, finishedMsg says that CRIU has restored all, readyMsg that everything
	// known at the start has been said and which number the server has, closedMsg
	// that the keeper has closed its duplicate, madeMsg that all processes are made and held,
	// releasedMsg that the container runs.
	memoryMsg kind = iota + 1
	endedMsg
	heldMsg
	finishedMsg
	readyMsg
	closedMsg
	madeMsg
	releasedMsg
	// Server to keeper. holderMsg hands over the pidfd of its holder, adoptedMsg
	// says that it needs those of earlier servers no more, forkedMsg hands over a
	// child's userfaultfd, doneMsg says that a memory needs nothing more,
	// progressMsg counts, allDoneMsg ends it, sourceLostMsg as well: pages are missing for good.
	holderMsg
	adoptedMsg
	forkedMsg
	doneMsg
	progressMsg
	allDoneMsg
	sourceLostMsg
)

func (k kind) carriesFD() bool {
	return k == memoryMsg || k == heldMsg || k == holderMsg || k == forkedMsg
}

// message is what they say. Which fields count depends on the kind.
type message struct {
	kind   kind
	pid    int32  // of the process that the images have the memory of
	id     uint64 // of the memory; of heldMsg and readyMsg a server's number
	parent uint64 // its parent's id; 0 if CRIU made it
	fork   uint64 // which of its parent's forks made it

	filled, total, faults, memories, lost, missing, remote, held, peak uint64
}

const messageSize = 104

func (m message) encode() []byte {
	b := binary.NativeEndian.AppendUint32(make([]byte, 0, messageSize), uint32(m.kind))
	b = binary.NativeEndian.AppendUint32(b, uint32(m.pid))
	for _, v := range []uint64{m.id, m.parent, m.fork, m.filled, m.total, m.faults, m.memories, m.lost, m.missing, m.remote, m.held, m.peak} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

var errMessage = errors.New("bad message between keeper and fault server")

func decodeMessage(b []byte) (message, error) {
	if len(b) != messageSize {
		return message{}, fmt.Errorf("%d bytes: %w", len(b), errMessage)
	}
	m := message{kind: kind(binary.NativeEndian.Uint32(b)), pid: int32(binary.NativeEndian.Uint32(b[4:]))}
	if m.kind < memoryMsg || m.kind > sourceLostMsg {
		return message{}, fmt.Errorf("kind %d: %w", m.kind, errMessage)
	}
	for i, p := range []*uint64{&m.id, &m.parent, &m.fork, &m.filled, &m.total, &m.faults, &m.memories, &m.lost, &m.missing, &m.remote, &m.held, &m.peak} {
		*p = binary.NativeEndian.Uint64(b[8+8*i:])
	}
	return m, nil
}

// send sends a message, with a descriptor if fd is not negative. It may block,
// unless flags has MSG_DONTWAIT.
func send(sock int, m message, fd, flags int) error {
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		err := unix.Sendmsg(sock, m.encode(), rights, nil, flags|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive takes a message, and the descriptor that came with it, else -1. At the
// end of the connection the error is io.EOF.
func receive(sock, flags int) (message, int, error) {
	var b [messageSize + 1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, fd, err := receiveFD(sock, b[:], oob, flags)
	if err != nil {
		return message{}, -1, err
	}
	m, err := decodeMessage(b[:n])
	if err == nil && m.kind.carriesFD() != (fd >= 0) {
		err = fmt.Errorf("kind %d with or without a descriptor: %w", m.kind, errMessage)
	}
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return message{}, -1, err
	}
	return m, fd, nil
}

// receiveFD receives bytes and at most one descriptor, else -1.
func receiveFD(sock int, b, oob []byte, flags int) (n, fd int, err error) {
	var oobn int
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, b, oob, flags|unix.MSG_CMSG_CLOEXEC)
		// A peer that ended with something unread is a reset, said once and before
		// what it has sent (net/unix/af_unix.c, unix_release_sock).
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECONNRESET) {
			break
		}
	}
	if err != nil {
		return 0, -1, err
	}
	fd = oneFD(oob[:oobn])
	if n == 0 && fd < 0 {
		return 0, -1, io.EOF
	}
	return n, fd, nil
}

// oneFD returns the descriptor in a control message, and closes any others.
func oneFD(oob []byte) int {
	fd := -1
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fd
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, f := range fds {
			if fd >= 0 {
				unix.Close(f)
				continue
			}
			fd = f
		}
	}
	return fd
}
