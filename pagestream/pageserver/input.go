package pageserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// aheadBytes is the most that is read of a stream beyond what is known to
	// come: what is pages of that has to be copied once more.
	aheadBytes = 32 << 10
	// packetBytes is more than any packet that criu sends: the kernel splices
	// up to 16 pages at once (fs/splice.c, splice_to_socket).
	packetBytes = 128 << 10
	// bigPayload is when copying costs more than a read of its own for what
	// comes next.
	bigPayload = 64 << 10
)

// input reads messages and the pages behind them with as few calls as it can:
// pages go straight to their place, and the same call reads the message behind
// them.
type input struct {
	conn net.Conn
	raw  syscall.RawConn // nil: the connection has no file descriptor
	idle time.Duration   // how long the client may be silent; 0: for ever
	ctx  context.Context

	packets bool // criu's end is a packet socket: a packet is read whole or lost

	armed     time.Time // when the deadline was last moved
	staging   [packetBytes]byte
	ahead     []byte // of staging: read, not asked for yet
	lookahead int    // how much to read beyond what is asked for
	vec       [2][]byte
	read      int
	flags     int // that the read returned
	err       error
	readFD    func(fd uintptr) bool
}

func newInput(ctx context.Context, conn net.Conn, idle time.Duration) *input {
	in := &input{conn: conn, idle: idle, ctx: ctx, lookahead: aheadBytes}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			in.raw = raw
			_ = raw.Control(func(fd uintptr) {
				kind, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TYPE)
				in.packets = err == nil && kind == unix.SOCK_SEQPACKET
			})
		}
	}
	in.readFD = func(fd uintptr) bool {
		for {
			in.read, _, in.flags, _, in.err = unix.RecvmsgBuffers(int(fd), in.vec[:], nil, 0)
			if in.err != unix.EINTR {
				return in.err != unix.EAGAIN
			}
		}
	}
	return in
}

// message returns the next n bytes, which are valid until the next call.
func (in *input) message(n int) ([]byte, error) {
	if len(in.ahead) < n {
		kept := copy(in.staging[:], in.ahead)
		for kept < n {
			got, err := in.readInto(in.staging[kept:max(n, in.beyond())], nil)
			if err != nil {
				return nil, err
			}
			kept += got
		}
		in.ahead = in.staging[:kept]
	}
	b := in.ahead[:n]
	in.ahead = in.ahead[n:]
	return b, nil
}

// expect says how long messages are and what followed the last one, from which
// it guesses what to read ahead.
func (in *input) expect(size int, payload uint64) {
	in.lookahead = aheadBytes
	if payload >= bigPayload {
		in.lookahead = size
	}
}

// payload fills dst with what comes next; if it is the last before a message,
// it reads that ahead as well.
func (in *input) payload(dst []byte, last bool) error {
	n := copy(dst, in.ahead)
	in.ahead = in.ahead[n:]
	dst = dst[n:]
	for len(dst) > 0 {
		var beyond []byte
		if last || in.packets {
			beyond = in.staging[:in.beyond()]
		}
		got, err := in.readInto(dst, beyond)
		if err != nil {
			return err
		}
		if got >= len(dst) {
			in.ahead = in.staging[:got-len(dst)]
			return nil
		}
		dst = dst[got:]
	}
	return nil
}

// beyond is how much may be read beyond what is asked for.
func (in *input) beyond() int {
	if in.packets {
		return packetBytes
	}
	return in.lookahead
}

// readInto waits for bytes and reads as many as there are, into dst and then
// into beyond.
func (in *input) readInto(dst, beyond []byte) (int, error) {
	if err := in.arm(); err != nil {
		return 0, err
	}
	if in.raw == nil {
		n, err := in.conn.Read(dst)
		if n > 0 || err == nil {
			return n, nil // none without an error: ask again
		}
		return 0, in.explain(err)
	}
	in.vec = [2][]byte{dst, beyond}
	if err := in.raw.Read(in.readFD); err != nil {
		return 0, in.explain(err)
	}
	if in.err != nil {
		return 0, in.explain(os.NewSyscallError("recvmsg", in.err))
	}
	if in.read == 0 {
		return 0, in.explain(io.EOF)
	}
	if in.flags&unix.MSG_TRUNC != 0 {
		return 0, fmt.Errorf("a packet of more than %d bytes: %w", packetBytes, ErrProtocol)
	}
	return in.read, nil
}

// arm moves the deadline, if that was not done a moment ago.
func (in *input) arm() error {
	if in.idle > 0 {
		if now := time.Now(); now.Sub(in.armed) > in.idle/8 {
			in.armed = now
			if err := in.conn.SetReadDeadline(now.Add(in.idle)); err != nil {
				return in.explain(err)
			}
		}
	}
	// After the deadline: what ends ctx sets one in the past.
	return context.Cause(in.ctx)
}

// explain says what an error of the connection means.
func (in *input) explain(err error) error {
	if cause := context.Cause(in.ctx); cause != nil {
		return cause
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return ErrClientGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nothing came for %s: %w", in.idle, ErrSilent)
	}
	return fmt.Errorf("read from criu: %w", err)
}
