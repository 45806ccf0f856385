package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab/delayline"
	"godwit.dev/godwit/test/lab/nodeinit"
)

// A lab's processes are the program that made them, executed again under one of these names: so a test binary builds nodes
// without another binary being installed, and no process of a lab depends on the one that started it.
const (
	arg0Prefix = "godwit-lab-"
	arg0Launch = arg0Prefix + "launch" // joins cgroups, starts one of the others detached, and ends
	arg0Node   = arg0Prefix + "node"   // PID 1 of a node
	arg0Delay  = arg0Prefix + "delay"  // a delay line
	// arg0Storage is a side of the storage's driver, which PID 1 of a machine starts.
	arg0Storage = arg0Prefix + "storage"
)

// Descriptors of the processes above: pipes to and from the process that waits for them to be ready.
const (
	fdSpec  = 3
	fdReady = 4
	fdLog   = 5 // of the launcher
)

func init() {
	var run func() error
	switch os.Args[0] {
	case arg0Launch:
		run = launched
	case arg0Node:
		run = func() error {
			return nodeinit.Run(os.NewFile(fdSpec, "spec"), os.NewFile(fdReady, "ready"))
		}
	case arg0Delay:
		run = delayed
	case arg0Storage:
		run = stored
	default:
		return
	}
	// Ours alone: a service that inherited the end of a pipe would keep its reader waiting.
	for fd := fdSpec; fd <= fdLog; fd++ {
		unix.CloseOnExec(fd)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, os.Args[0]+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// detached is a process that outlives its maker: it has a session of its own and the host's init for a parent.
type detached struct {
	pid   int
	spec  *os.File // to write the process's specification to
	ready *os.File // gives "ready", or what went wrong, or just ends if the process dies
}

func (d *detached) close() {
	d.spec.Close()
	d.ready.Close()
}

// waitReady waits until the process says that it is ready.
func (d *detached) waitReady(timeout time.Duration) error {
	if err := d.ready.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	var said strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := d.ready.Read(buf)
		said.Write(buf[:n])
		if err == nil {
			continue
		}
		switch {
		case said.String() == "ready":
			return nil
		case said.Len() > 0:
			return errors.New(said.String())
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("not ready after %s", timeout)
		}
		return errors.New("ended before it was ready")
	}
}

// launch starts name (arg0Node or arg0Delay) with args in the given cgroup, with logs appended to log. For a node it makes
// the namespaces. The launcher in between joins the cgroups first, so that nothing of the process is ever outside of them
// and the cgroup namespace begins there.
func launch(name string, args []string, cgroup string, log string) (*detached, error) {
	dirs, err := makeCgroup(cgroup)
	if err != nil {
		return nil, err
	}
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	specR, specW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer specR.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		specW.Close()
		return nil, err
	}
	defer readyW.Close()
	d := &detached{spec: specW, ready: readyR}

	var stdout, stderr strings.Builder
	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       append(append([]string{arg0Launch}, args[:2]...), append([]string{strings.Join(dirs, ":"), name}, args[2:]...)...),
		Env:        []string{"PATH=" + os.Getenv("PATH"), "GODEBUG=" + os.Getenv("GODEBUG")},
		Dir:        "/",
		Stdout:     &stdout,
		Stderr:     &stderr,
		ExtraFiles: []*os.File{specR, readyW, out},
	}
	if err := cmd.Run(); err != nil {
		d.close()
		return nil, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	if _, err := fmt.Sscan(stdout.String(), &d.pid); err != nil {
		d.close()
		return nil, fmt.Errorf("%s: pid: %w", name, err)
	}
	return d, nil
}

// launched is the launcher: arguments are the two markers, the cgroup directories, the name, and what is for that.
func launched() error {
	markers, dirs, name, rest := os.Args[1:3], strings.Split(os.Args[3], ":"), os.Args[4], os.Args[5:]
	for _, dir := range dirs {
		if err := os.WriteFile(dir+"/cgroup.procs", []byte("0"), 0); err != nil {
			return fmt.Errorf("enter cgroup %s: %w", dir, err)
		}
	}
	out := os.NewFile(fdLog, "log")
	attr := &syscall.SysProcAttr{Setsid: true}
	if name == arg0Node {
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
	}
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        append(append([]string{name}, markers...), rest...),
		Env:         os.Environ(),
		Dir:         "/",
		Stdout:      out,
		Stderr:      out,
		ExtraFiles:  []*os.File{os.NewFile(fdSpec, "spec"), os.NewFile(fdReady, "ready")},
		SysProcAttr: attr,
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	fmt.Println(cmd.Process.Pid)
	return nil
}

// delayed is a delay line: arguments after the markers are the two device names, the delay and the exempt address.
func delayed() error {
	ready := os.NewFile(fdReady, "ready")
	line, err := openLine(os.Args[3:])
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	fmt.Fprint(ready, "ready")
	ready.Close()
	return line.Run()
}

func openLine(args []string) (*delayline.Line, error) {
	if len(args) != 4 {
		return nil, errors.New("a delay line takes two devices, a delay and an address")
	}
	delay, err := time.ParseDuration(args[2])
	if err != nil {
		return nil, err
	}
	exempt, err := net.ParseMAC(args[3])
	if err != nil {
		return nil, err
	}
	return delayline.Open(args[0], args[1], delay, exempt)
}
