package nodeinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	notifySocket = "/run/godwit-lab/notify.sock"
	searchPath   = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// service is one entry of the supervisor's table. Only the supervisor's loop touches it.
type service struct {
	spec Service
	ServiceStatus
	due time.Time // when to start it, while Restarting or Missing
}

// supervise runs the services for ever. One loop owns all state: it wakes for an ended child, for a service that says it is
// ready, and for the time to start one again.
func supervise(specs []Service, ready io.WriteCloser) error {
	if err := os.MkdirAll(filepath.Dir(notifySocket), 0o755); err != nil {
		return err
	}
	notified, err := listenNotify()
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)

	services := make([]*service, len(specs))
	for i, s := range specs {
		services[i] = &service{spec: s, ServiceStatus: ServiceStatus{Name: s.Name, State: Restarting}}
	}
	timer := time.NewTimer(0)
	for {
		select {
		case <-timer.C:
		case <-children:
			reap(services)
		case pid := <-notified:
			for _, s := range services {
				if s.PID == pid && s.State == Starting {
					s.State = Running
				}
			}
		}
		next := startDue(services, time.Now())
		writeStatus(services)
		if ready != nil && !slices.ContainsFunc(services, func(s *service) bool { return s.spec.Notify && s.State != Running }) {
			fmt.Fprint(ready, "ready")
			ready.Close()
			ready = nil
		}
		timer.Reset(next)
	}
}

// startDue starts what is due and says how long until the next is.
func startDue(services []*service, now time.Time) time.Duration {
	next := time.Hour
	for _, s := range services {
		if s.State != Restarting && s.State != Missing {
			continue
		}
		if s.awaits(services) {
			continue // what it waits for wakes the loop
		}
		if !s.due.After(now) {
			s.start(now)
		}
		if s.State == Restarting || s.State == Missing {
			next = min(next, s.due.Sub(now))
		}
	}
	return max(next, time.Millisecond)
}

// awaits says whether the service that s comes after does not run yet.
func (s *service) awaits(services []*service) bool {
	return slices.ContainsFunc(services, func(o *service) bool { return o.Name == s.spec.After && o.State != Running })
}

// start runs the service. It is called from the loop that also reaps, so the child cannot be reaped before it is known.
func (s *service) start(now time.Time) {
	program := s.spec.Args[0]
	if s.spec.Program != "" {
		program = s.spec.Program
	}
	if _, err := os.Stat(program); err != nil && s.spec.Optional {
		// There is no event to wait for: the directory is a bind of the host's, where a build replaces it.
		s.State, s.due = Missing, now.Add(2*RestartAfter)
		return
	}
	log, err := os.OpenFile(filepath.Join(LogDir, s.Name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		s.failed(now, err)
		return
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		s.failed(now, err)
		return
	}
	defer null.Close()
	env := []string{searchPath, "HOME=/root", "LANG=C.UTF-8", "GODWIT_LAB=1"}
	if s.spec.Notify {
		env = append(env, "NOTIFY_SOCKET="+notifySocket)
	}
	// Not os/exec: its Wait and our reaping of everything would race for the exit status.
	pid, err := syscall.ForkExec(program, s.spec.Args, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{null.Fd(), log.Fd(), log.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		s.failed(now, err)
		return
	}
	s.PID, s.State = pid, Running
	if s.spec.Notify {
		s.State = Starting
	}
}

func (s *service) failed(now time.Time, err error) {
	s.PID, s.State, s.LastExit, s.due = 0, Restarting, err.Error(), now.Add(RestartAfter)
	s.Restarts++
}

// reap collects every ended child: services, and the orphans that fall to PID 1.
func reap(services []*service) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		for _, s := range services {
			if s.PID == pid {
				s.failed(time.Now(), describe(status))
				fmt.Fprintf(os.Stderr, "%s ended: %s\n", s.Name, s.LastExit)
			}
		}
	}
}

func describe(w unix.WaitStatus) error {
	if w.Signaled() {
		return fmt.Errorf("killed by %s", w.Signal())
	}
	return fmt.Errorf("exit status %d", w.ExitStatus())
}

func writeStatus(services []*service) {
	all := make([]ServiceStatus, len(services))
	for i, s := range services {
		all[i] = s.ServiceStatus
	}
	b, _ := json.Marshal(all)
	tmp := StatusFile + ".tmp"
	if os.WriteFile(tmp, b, 0o644) == nil {
		_ = os.Rename(tmp, StatusFile)
	}
}

// listenNotify receives READY=1 of sd_notify(3) and gives the sender's pid, which the kernel vouches for.
func listenNotify() (<-chan int, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notifySocket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	var opt error
	if err := raw.Control(func(fd uintptr) { opt = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil || opt != nil {
		return nil, fmt.Errorf("notify socket: %w", errors.Join(err, opt))
	}
	ready := make(chan int)
	go func() { // lives as long as PID 1
		buf, oob := make([]byte, 4096), make([]byte, 256)
		for {
			n, o, _, _, err := conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			if !slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
				continue
			}
			if pid, ok := sender(oob[:o]); ok {
				ready <- pid
			}
		}
	}()
	return ready, nil
}

func sender(oob []byte) (int, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, false
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return int(cred.Pid), true
		}
	}
	return 0, false
}
