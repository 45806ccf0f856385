package criu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// Descriptors of a service's process: what exec makes of its extra files.
const (
	serviceSocket = 3
	// pageSocket is the client's end of a page server's connection.
	pageSocket = 4
)

// maxResponse bounds a response: they are small, and one that is not is cut off.
const maxResponse = 64 << 10

// afterlife is how long something that CRIU left behind may keep its socket.
const afterlife = time.Second

// service asks one process of CRIU for one thing, by its RPC. Our own and not
// go-criu's client, which starts processes without descriptors to inherit, gives
// back the request where a response is asked for (features.go), and waits for its
// child itself, which a shim must not.
type service struct {
	// run runs a command to its end, and kills it when its context ends.
	run func(context.Context, *exec.Cmd) error
	// files are inherited, the first as pageSocket.
	files []*os.File
	// letGo is how long CRIU may take to end once ctx has: it sets the processes
	// free that it has stopped. Then it is killed.
	letGo time.Duration
	// hangUp makes CRIU give up of itself.
	hangUp func()
}

// ask sends a request and returns the response once CRIU has ended.
func (s service) ask(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	body, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request to CRIU: %w", err)
	}
	conn, theirs, err := servicePair()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	alive, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	ended := make(chan error, 1)
	go func() {
		cmd := exec.Command("criu", "swrk", fmt.Sprint(serviceSocket))
		cmd.ExtraFiles = append([]*os.File{theirs}, s.files...)
		err := s.run(alive, cmd)
		theirs.Close()
		ended <- err
	}()
	stop := context.AfterFunc(ctx, func() {
		s.hangUp()
		time.AfterFunc(s.letGo, func() { conn.Close(); kill() })
	})
	defer stop()
	resp, err := converse(conn, body, ended)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return resp, err
}

// servicePair makes the socket over which a service hears its request.
func servicePair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for CRIU: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "criu-rpc"), os.NewFile(uintptr(fds[1]), "criu-rpc")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket for CRIU: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

// converse sends one request, and waits for the response and the end of CRIU,
// which ends when the socket is closed after it. The end of CRIU without a
// response is an error.
func converse(conn *net.UnixConn, body []byte, ended chan error) (*rpc.CriuResp, error) {
	failed := make(chan error, 1)
	go func() {
		err := <-ended
		failed <- err
		// What it said last is still to be read. Then its end of the socket is
		// closed, unless it left a process behind.
		conn.SetReadDeadline(time.Now().Add(afterlife))
	}()
	resp, err := exchange(conn, body)
	conn.CloseWrite()
	if err != nil {
		conn.Close()
	}
	end := <-failed
	if err != nil {
		return nil, errors.Join(fmt.Errorf("CRIU gave no answer: %w", err), end)
	}
	return resp, nil
}

func exchange(conn *net.UnixConn, body []byte) (*rpc.CriuResp, error) {
	if _, err := conn.Write(body); err != nil {
		return nil, err
	}
	buf := make([]byte, maxResponse)
	n, err := conn.Read(buf)
	if err != nil {
		return nil, err
	}
	resp := new(rpc.CriuResp)
	if err := proto.Unmarshal(buf[:n], resp); err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return resp, nil
}

// refused is the error of a response that says no.
func refused(resp *rpc.CriuResp) error {
	if resp.GetSuccess() {
		return nil
	}
	why := strings.TrimSpace(resp.GetCrErrmsg())
	if n := resp.GetCrErrno(); n != 0 {
		why = strings.TrimSpace(why + " " + unix.Errno(n).Error())
	}
	if why == "" {
		why = "no reason given"
	}
	return fmt.Errorf("CRIU failed: %s", why)
}
