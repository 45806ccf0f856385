package track

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHelperDied says that the process of a Helper ended before it answered.
var ErrHelperDied = errors.New("process that injects ended: the next call starts another")

// HelperFD is the descriptor that a helper's process finds its socket at.
const HelperFD = 3

// answerGrace is how much longer than the process tries an answer may take.
const answerGrace = 2 * time.Second

// A StartFunc starts the process of a Helper: a program that calls
// ServeInjectorFD(HelperFD), with the socket as its descriptor HelperFD. The
// socket remains the caller's. wait must return when the process has ended, and
// reap it.
type StartFunc func(socket *os.File) (wait func() error, err error)

// StartCommand starts a helper's process with package os/exec. A program that
// reaps all its children by wait4(-1) needs a StartFunc of its own.
func StartCommand(path string, args ...string) StartFunc {
	return func(socket *os.File) (func() error, error) {
		cmd := exec.Command(path, args...)
		cmd.ExtraFiles = []*os.File{socket} // the first of them is descriptor 3
		cmd.Stderr = os.Stderr
		// A terminal's Ctrl-C is for us. The helper ends when we let go.
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		return cmd.Wait, nil
	}
}

// Helper injects from a process of its own. A program that reaps all its
// children, as a containerd shim does, would take the stops of the threads that
// are injected into: for the kernel they are children of whoever traces them.
//
// The process is started by the first call, and again after it died. Its death
// is the error of the call it was to answer. If it is killed (SIGKILL; it
// ignores what can be ignored) while a thread is held, which is 0.2 ms for each
// injection, the kernel lets that thread run on as it stands: it was stopped
// with a userfaultfd call to make in the vDSO and not at its own place, so the
// target most likely crashes. That window cannot be closed from outside, a
// thread has but one tracer; so nothing here ever kills the process: it ends by
// itself after the injection when the socket is closed.
//
// A Helper is safe for use by several goroutines; injections are one after the
// other. Close it.
type Helper struct {
	start StartFunc

	mu     sync.Mutex // guards all below, and orders calls
	conn   *net.UnixConn
	closed bool
	exits  sync.WaitGroup // processes that were started and not reaped
}

// NewHelper returns a helper whose process is started by start when it is needed.
func NewHelper(start StartFunc) *Helper { return &Helper{start: start} }

// Inject is Inject of this package, done in the helper's process. When the
// context ends first, the injection is left to end by itself and its descriptor
// is dropped.
func (h *Helper) Inject(ctx context.Context, pid int) (Injection, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	in, err := h.inject(ctx, pid)
	if err != nil {
		return Injection{}, fmt.Errorf("inject by helper: %w", err)
	}
	return in, nil
}

func (h *Helper) inject(ctx context.Context, pid int) (Injection, error) {
	if err := ctx.Err(); err != nil {
		return Injection{}, err
	}
	if err := h.connect(); err != nil {
		return Injection{}, err
	}
	patience := defaultPatience
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline)
	}
	text, err := json.Marshal(injectRequest{PID: pid, Patience: patience})
	if err != nil {
		return Injection{}, err
	}
	conn := h.conn
	// At the context's deadline the process gives up by itself and says why.
	conn.SetReadDeadline(time.Now().Add(patience + answerGrace))
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			conn.SetReadDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	in, err := exchange(conn, text)
	var refused *remoteError
	if err != nil && !errors.As(err, &refused) {
		h.hangUp() // its answer, if one comes, is not for the next call
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.Join(err, ctx.Err())
	}
	return in, err
}

// exchange sends a request and takes the answer.
func exchange(conn *net.UnixConn, request []byte) (Injection, error) {
	if _, err := conn.Write(request); err != nil {
		return Injection{}, fmt.Errorf("%w (%w)", ErrHelperDied, err)
	}
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := conn.ReadMsgUnix(text, rights)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Injection{}, err
	}
	if err != nil || n == 0 {
		return Injection{}, errors.Join(ErrHelperDied, err)
	}
	fds, err := parseRights(rights[:nr])
	if err != nil {
		return Injection{}, err
	}
	var reply injectReply
	if err = json.Unmarshal(text[:n], &reply); err == nil {
		err = reply.err()
	}
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("answer has %d descriptors, not one", len(fds))
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return Injection{}, err
	}
	return Injection{FD: fds[0], Stopped: reply.Stopped}, nil
}

func parseRights(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// connect starts the process if there is none.
func (h *Helper) connect() error {
	if h.closed {
		return ErrClosed
	}
	if h.conn != nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket of the injector: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "injector"), os.NewFile(uintptr(pair[1]), "injector")
	defer theirs.Close()
	conn, err := packetConn(ours)
	if err != nil {
		return err
	}
	wait, err := h.start(theirs)
	if err != nil {
		conn.Close()
		return fmt.Errorf("start the injector: %w", err)
	}
	h.exits.Go(func() { wait() })
	h.conn = conn
	return nil
}

// hangUp lets the process end.
func (h *Helper) hangUp() {
	if h.conn != nil {
		h.conn.Close()
		h.conn = nil
	}
}

// Close lets the process end, and waits for it.
func (h *Helper) Close() {
	h.mu.Lock()
	h.closed = true
	h.hangUp()
	h.mu.Unlock()
	h.exits.Wait()
}
