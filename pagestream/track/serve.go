package track

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// What goes between a Helper and its process: one JSON object each way on a
// SOCK_SEQPACKET pair, so that a message is never cut. Both ends are the same
// binary, so there is no version.

// injectRequest asks for a userfaultfd.
type injectRequest struct {
	PID      int           `json:"pid"`
	Patience time.Duration `json:"patience"` // in nanoseconds, how long to try
}

// injectReply answers it; the userfaultfd comes along if Error is empty.
type injectReply struct {
	Stopped time.Duration `json:"stopped,omitempty"` // in nanoseconds
	Error   string        `json:"error,omitempty"`
	Kind    string        `json:"kind,omitempty"` // key of injectErrors
	Errno   int           `json:"errno,omitempty"`
}

// injectErrors are the errors that keep their identity over the socket.
var injectErrors = map[string]error{
	"gone":        ErrGone,
	"traced":      ErrTraced,
	"unreachable": ErrUnreachable,
	"unsupported": ErrUnsupported,
	"seccomp":     ErrSeccomp,
}

const (
	maxMessage = 16 << 10
	// maxPatience bounds what a request may ask for.
	maxPatience = 10 * time.Second
)

// ServeInjector is the main function of a Helper's process. It answers requests
// on the socket until the other end closes it, which is also what happens when
// that process dies. It ignores the signals that end a program politely: an
// injection under way must come to its end, see Helper.
func ServeInjector(conn *net.UnixConn) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE)
	defer conn.Close()
	buf := make([]byte, maxMessage)
	for {
		n, err := conn.Read(buf)
		if errors.Is(err, io.EOF) || (err == nil && n == 0) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("request for a userfaultfd: %w", err)
		}
		var req injectRequest
		if err := json.Unmarshal(buf[:n], &req); err != nil {
			return fmt.Errorf("request for a userfaultfd: %w", err)
		}
		if err := answer(conn, req); err != nil {
			return err
		}
	}
}

// ServeInjectorFD is ServeInjector on the descriptor that a StartFunc passed on,
// usually HelperFD.
func ServeInjectorFD(fd uintptr) error {
	conn, err := packetConn(os.NewFile(fd, "injector"))
	if err != nil {
		return err
	}
	return ServeInjector(conn)
}

func answer(conn *net.UnixConn, req injectRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), min(max(req.Patience, time.Millisecond), maxPatience))
	defer cancel()
	in, err := Inject(ctx, req.PID)
	reply := injectReply{Stopped: in.Stopped}
	var rights []byte
	if err != nil {
		reply = describe(err)
	} else {
		defer unix.Close(in.FD)
		rights = unix.UnixRights(in.FD)
	}
	text, err := json.Marshal(reply)
	if err != nil {
		return fmt.Errorf("answer with a userfaultfd: %w", err)
	}
	if _, _, err := conn.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("answer with a userfaultfd: %w", err)
	}
	return nil
}

func describe(err error) injectReply {
	reply := injectReply{Error: err.Error()}
	if len(reply.Error) > maxMessage/4 {
		reply.Error = reply.Error[:maxMessage/4]
	}
	for kind, sentinel := range injectErrors {
		if errors.Is(err, sentinel) {
			reply.Kind = kind
		}
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		reply.Errno = int(errno)
	}
	return reply
}

// remoteError is an error of the helper's process.
type remoteError struct {
	text  string
	kinds []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.kinds }

// err is what describe described.
func (r injectReply) err() error {
	if r.Error == "" {
		return nil
	}
	e := &remoteError{text: r.Error}
	if sentinel := injectErrors[r.Kind]; sentinel != nil {
		e.kinds = append(e.kinds, sentinel)
	}
	if r.Errno != 0 {
		e.kinds = append(e.kinds, unix.Errno(r.Errno))
	}
	return e
}

// packetConn makes a connection of a socket and closes the file.
func packetConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket of the injector: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("socket of the injector is not a unix socket")
	}
	return conn, nil
}
