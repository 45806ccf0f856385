package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// playCRIU has this program play a CRIU, which is what it tells its client with the file that the request names.
const playCRIU = "GODWIT_TEST_PLAY_CRIU"

func TestMain(m *testing.M) {
	if stood, err := StandIn(os.Args); stood {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(playCRIU) != "" {
		if err := play(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(playMapper) != "" {
		mapper()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is CRIU's part: it takes a request, reads the file that it names as CRIU would, notifies of each stage that the
// file's text names, and says how that went.
func play() error {
	conn, err := net.FileConn(os.NewFile(serviceSocket, "rpc"))
	if err != nil {
		return err
	}
	c := conn.(*net.UnixConn)
	buf := make([]byte, maxMessage)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	req := new(rpc.CriuReq)
	if err := proto.Unmarshal(buf[:n], req); err != nil {
		return err
	}
	if level := req.GetOpts().GetLogLevel(); level != quietLog {
		return fmt.Errorf("the log's level is %d", level)
	}
	maker, err := peer(c)
	if err != nil {
		return err
	}
	stages, err := os.ReadFile(fmt.Sprintf("/proc/%d/fd/%d", maker, req.GetOpts().GetImagesDirFd()))
	if err != nil {
		return err
	}
	resp := &rpc.CriuResp{Type: req.Type, Success: proto.Bool(true)}
	for _, stage := range strings.Fields(string(stages)) {
		ok, err := playStage(c, stage)
		if err != nil {
			return err
		}
		if !ok {
			resp.Success, resp.CrErrmsg = proto.Bool(false), proto.String(stage)
			break
		}
	}
	body, err := proto.Marshal(resp)
	if err == nil {
		_, err = c.Write(body)
	}
	return err
}

// playStage notifies of a stage, with a pipe's end that the client is to write to if it is the one for a terminal.
func playStage(c *net.UnixConn, stage string) (ok bool, err error) {
	body, err := proto.Marshal(&rpc.CriuResp{
		Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true), Notify: &rpc.CriuNotify{Script: proto.String(stage), Pid: proto.Int32(int32(os.Getpid()))},
	})
	if err != nil {
		return false, err
	}
	var passed []int
	r, w, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer r.Close()
	if stage == "orphan-pts-master" {
		passed = append(passed, int(w.Fd()))
	}
	err = send(c, body, passed)
	w.Close()
	if err != nil {
		return false, err
	}
	buf := make([]byte, maxMessage)
	n, err := c.Read(buf)
	if err != nil {
		return false, err
	}
	if heard, err := io.ReadAll(r); err != nil || len(passed) > 0 && string(heard) != "master" {
		return false, fmt.Errorf("heard %q, %w", heard, err)
	}
	req := new(rpc.CriuReq)
	err = proto.Unmarshal(buf[:n], req)
	return req.GetType() == rpc.CriuReqType_NOTIFY && req.GetNotifySuccess(), err
}

// client is what runc is to CRIU.
type client struct {
	conn *net.UnixConn
	cmd  *exec.Cmd
	said bytes.Buffer
	// notified are the scripts of which it was.
	notified []string
}

// startClient starts `criu swrk` as runc does, below a relay, with a CRIU in PATH that goes through stages.
func startClient(t *testing.T, c config, stages string) *client {
	t.Helper()
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", playCRIU, self)
	if err := os.WriteFile(filepath.Join(bin, "criu"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	conn, theirs, err := servicePair()
	if err != nil {
		t.Fatal(err)
	}
	k := &client{conn: conn}
	k.cmd = exec.Command(filepath.Join(c.bin(), standInCRIU), "swrk", fmt.Sprint(serviceSocket))
	k.cmd.Args[0] = standInCRIU
	k.cmd.Env = c.environment(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")))
	k.cmd.ExtraFiles = []*os.File{theirs}
	k.cmd.Stderr = &k.said
	err = k.cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); k.cmd.Process.Kill(); k.cmd.Wait() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	images := filepath.Join(t.TempDir(), "images")
	if err := os.WriteFile(images, []byte(stages), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(images)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	body, err := proto.Marshal(&rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: &rpc.CriuOpts{ImagesDirFd: proto.Int32(int32(f.Fd())), LogLevel: proto.Int32(4)}})
	if err == nil {
		_, err = conn.Write(body)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// converse answers CRIU's notifications until it has a response.
func (k *client) converse() (*rpc.CriuResp, error) {
	buf := make([]byte, maxMessage)
	for {
		n, passed, err := receive(k.conn, buf)
		if err != nil || n == 0 {
			return nil, errors.Join(errors.New("CRIU is gone"), err)
		}
		for _, fd := range passed {
			unix.Write(fd, []byte("master"))
		}
		closeAll(passed)
		resp := new(rpc.CriuResp)
		if err := proto.Unmarshal(buf[:n], resp); err != nil {
			return nil, err
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			k.conn.CloseWrite()
			return resp, k.cmd.Wait()
		}
		k.notified = append(k.notified, resp.GetNotify().GetScript())
		body, err := proto.Marshal(&rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(true)})
		if err == nil {
			_, err = k.conn.Write(body)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (k *client) start() <-chan inBackground {
	done := make(chan inBackground, 1)
	go func() {
		resp, err := k.converse()
		done <- inBackground{resp, err}
	}()
	return done
}
