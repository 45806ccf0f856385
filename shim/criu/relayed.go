package criu

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// maxMessage bounds what CRIU and its client say to each other: a request lists every mount of a container.
const maxMessage = 1 << 20

// quietLog is CRIU's level for errors and warnings (criu/include/log.h, LOG_WARN). runc asks for the highest: a line, and a write, for each
// mount, area and descriptor, a fifth of CRIU's time while the pod stands still.
const quietLog = 2

// setupNamespaces is when CRIU's client runs hooks.
const setupNamespaces Stage = "setup-namespaces"

// idleStages are those at which CRIU's client is notified and does nothing: runc (libcontainer/criu_linux.go, criuNotifications; of network-lock
// and network-unlock, libcontainer/network_linux.go: with what an OCI specification can ask for there is nothing to lock) and crun
// (src/libcrun/criu.c, criu_notify). They are answered here, as is setupNamespaces if there are no hooks. One that is not known goes to the client.
// At query-ext-files an answer might name external objects (criu/cr-service.c, exec_rpc_query_external_files); neither names any.
var idleStages = map[Stage]bool{
	PreDump: true, "query-ext-files": true, "network-lock": true,
	"pre-restore": true, "post-setup-namespaces": true, "network-unlock": true, PreResume: true, "post-resume": true,
}

// maxPassed is how many descriptors a message may carry: the one with a terminal's master carries one.
const maxPassed = 4

// relayed is what one CRIU and its client say to each other.
type relayed struct {
	relay *Relay
	// criu and client are the ways to both.
	criu, client *net.UnixConn
	// criuPID is CRIU's, clientPID that of who made the client's sockets, of whose files its requests speak.
	criuPID, clientPID int

	mu    sync.Mutex
	stage Stage // of the notification that the client has yet to answer; guarded by mu
	// lent are files of the client that CRIU finds at us; they are of the client's side alone.
	lent []int
	// answering is who answers CRIU beside who hears what it says: it may be held for long, and may die meanwhile.
	answering sync.WaitGroup
}

// newRelayed takes the client's socket from a CRIU that has just come.
func newRelayed(r *Relay, criu *net.UnixConn) (*relayed, error) {
	stop := closeWith(r.broken, criu)
	defer stop()
	buf := make([]byte, 1)
	_, passed, err := receive(criu, buf)
	if err != nil {
		return nil, err
	}
	if len(passed) != 1 {
		closeAll(passed)
		return nil, fmt.Errorf("%d sockets came, not one", len(passed))
	}
	s := &relayed{relay: r, criu: criu}
	if s.criuPID, err = peer(criu); err != nil {
		closeAll(passed)
		return nil, err
	}
	if s.client, err = connection(passed[0]); err != nil {
		return nil, err
	}
	if s.clientPID, err = peer(s.client); err != nil {
		s.client.Close()
		return nil, err
	}
	return s, nil
}

// connection takes over a descriptor of a socket.
func connection(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("the socket of CRIU's client: %w", err)
	}
	local, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("the socket of CRIU's client is none of the local kind")
	}
	return local, nil
}

// serve hands on what both say, until both have ended.
func (s *relayed) serve() {
	defer s.client.Close()
	defer func() { closeAll(s.lent) }()
	stop := closeWith(s.relay.broken, s.criu, s.client)
	defer stop()
	s.answering.Go(func() {
		if s.hand(s.client, s.criu, s.asked) != nil {
			s.criu.Close()
		}
		s.criu.CloseWrite()
	})
	_ = s.hand(s.criu, s.client, s.said) // whatever ends it, the client sees a CRIU that is gone
	s.client.Close()
	s.answering.Wait()
}

// hand gives messages of one side to the other until the former ends, which is no error. change may leave nothing of one.
func (s *relayed) hand(from, to *net.UnixConn, change func([]byte) ([]byte, error)) error {
	buf := make([]byte, maxMessage)
	for {
		n, passed, err := receive(from, buf)
		if err != nil || n == 0 {
			closeAll(passed)
			return ended(err)
		}
		message, err := change(buf[:n])
		if err == nil && len(message) > 0 {
			err = send(to, message, passed)
		}
		closeAll(passed)
		if err != nil {
			return err
		}
	}
}

// said notes what CRIU notifies its client of, and answers what is not the client's matter.
func (s *relayed) said(message []byte) ([]byte, error) {
	resp := new(rpc.CriuResp)
	if err := proto.Unmarshal(message, resp); err != nil {
		return nil, fmt.Errorf("CRIU's message: %w", err)
	}
	if resp.GetType() != rpc.CriuReqType_NOTIFY {
		return message, nil
	}
	stage := Stage(resp.GetNotify().GetScript())
	if idleStages[stage] || stage == setupNamespaces && !s.relay.hooks {
		s.answering.Go(func() {
			if s.answerFor(stage) != nil {
				s.criu.Close()
			}
		})
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage = stage
	return message, nil
}

// answerFor answers CRIU in the client's place.
func (s *relayed) answerFor(stage Stage) error {
	answer, err := proto.Marshal(&rpc.CriuReq{
		Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(s.relay.hold(stage, s.criuPID) == Go),
	})
	if err != nil {
		return fmt.Errorf("answer to CRIU: %w", err)
	}
	return send(s.criu, answer, nil)
}

// asked changes what the client says to CRIU: its answer to a notification comes when we have given ours, and the files
// of which it speaks are ours.
func (s *relayed) asked(message []byte) ([]byte, error) {
	req := new(rpc.CriuReq)
	if err := proto.Unmarshal(message, req); err != nil {
		return nil, fmt.Errorf("the request to CRIU: %w", err)
	}
	if req.GetType() == rpc.CriuReqType_NOTIFY {
		return s.answer(message, req)
	}
	if req.GetOpts() == nil {
		return message, nil
	}
	if err := s.lend(req.GetOpts()); err != nil {
		return nil, err
	}
	if s.relay.quiet && req.GetOpts().GetLogLevel() > quietLog {
		req.Opts.LogLevel = proto.Int32(quietLog)
	}
	return proto.Marshal(req)
}

// answer holds back the client's answer to a notification, and turns it into a no if ours is.
func (s *relayed) answer(message []byte, req *rpc.CriuReq) ([]byte, error) {
	s.mu.Lock()
	stage := s.stage
	s.stage = ""
	s.mu.Unlock()
	if stage == "" || !req.GetNotifySuccess() || s.relay.hold(stage, s.criuPID) == Go {
		return message, nil
	}
	req.NotifySuccess = proto.Bool(false)
	return proto.Marshal(req)
}

// lend takes over the files that CRIU opens by their number at the process that has made its socket (criu/cr-service.c,
// setup_opts_from_req): for CRIU that is us.
func (s *relayed) lend(opts *rpc.CriuOpts) error {
	pidfd, err := unix.PidfdOpen(s.clientPID, 0)
	if err != nil {
		return fmt.Errorf("client of CRIU, process %d: %w", s.clientPID, err)
	}
	defer unix.Close(pidfd)
	for _, number := range []*int32{opts.ImagesDirFd, opts.WorkDirFd, opts.StatusFd} {
		if number == nil || *number < 0 {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, int(*number), 0)
		if err != nil {
			return fmt.Errorf("file %d of CRIU's client: %w", *number, err)
		}
		s.lent = append(s.lent, fd)
		*number = int32(fd)
	}
	return nil
}

// receive reads one message, and the descriptors that it carries: they are handed on as they are, no file of them is made that would change
// how they block. No bytes are the end.
func receive(c *net.UnixConn, buf []byte) (n int, passed []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxPassed))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, say: nobody asked for them
		}
		passed = append(passed, fds...)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return n, passed, fmt.Errorf("a message of CRIU or its client is longer than %d bytes", len(buf))
	}
	return n, passed, nil
}

// ended makes no error of the end of a conversation.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

func send(c *net.UnixConn, message []byte, passed []int) error {
	var oob []byte
	if len(passed) > 0 {
		oob = unix.UnixRights(passed...)
	}
	_, _, err := c.WriteMsgUnix(message, oob, nil)
	return err
}

// peer is the process that made a socket's pair, or was at the other end when it was connected.
func peer(c *net.UnixConn) (pid int, err error) {
	// Not through a file of it: os.File.Fd would have the connection block, and a Close wait for what is read.
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("who is at the other end: %w", err)
	}
	var cred *unix.Ucred
	if failed := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); failed != nil {
		err = failed
	}
	if err != nil {
		return 0, fmt.Errorf("who is at the other end: %w", err)
	}
	return int(cred.Pid), nil
}

// closeWith closes connections when broken is, or not at all once stop has been called.
func closeWith(broken <-chan struct{}, conns ...*net.UnixConn) (stop func()) {
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-broken:
			for _, c := range conns {
				c.Close()
			}
		case <-done:
		}
	})
	return func() { close(done); watching.Wait() }
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
