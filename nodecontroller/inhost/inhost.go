// Package inhost runs a program of a container in the mount namespace of the
// host: the node daemon mounts, reads and starts what containerd, shims and
// CRIU see too, and a pod is merely how it gets there and stays alive. The pod
// must be privileged and have hostPID. What the program reads of its container,
// such as its configuration and its token, it finds below ImageRoot.
package inhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// envImageRoot tells the program where the root of its container is.
const envImageRoot = "GODWIT_IMAGE_ROOT"

// imagePrefix in an argument stands for the root of the container.
const imagePrefix = "image:"

// searchPath has containerd's programs and CRIU's wherever distributions put them.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrNoHost is returned where the host's mount namespace cannot be reached.
var ErrNoHost = errors.New("the host's mount namespace cannot be joined")

// ImageRoot is the root of the container from which Run started this process,
// or empty if none did.
func ImageRoot() string { return os.Getenv(envImageRoot) }

// Run runs a program of the host, or with an empty name this program, in the
// mount namespace of the host's PID 1, and returns its exit status. Signals that
// ask to end are passed on. In the arguments, image: before a path makes it one
// of the container.
func Run(program string, args []string) (int, error) {
	if err := distinct("/proc/1/ns/mnt", "/proc/self/ns/mnt"); err != nil {
		return 0, err
	}
	image := "/proc/" + strconv.Itoa(os.Getpid()) + "/root"
	path := searchPath
	if program == "" {
		program = "/proc/self/exe" // of the child, which is this program until it executes it again
	} else {
		path = filepath.Dir(program) + ":" + path
	}
	cmd := exec.CommandContext(context.Background(), program, expand(args, image)...)
	cmd.Path, cmd.Err = program, nil
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envImageRoot+"="+image, "PATH="+path)
	cmd.Dir = "/"
	// The program ends with us, however we end: a daemon of which nobody knows
	// would keep the port and the socket.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}

	asked := make(chan os.Signal, 8)
	signal.Notify(asked, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	defer signal.Stop(asked)
	ended := make(chan error, 1)
	started := make(chan error, 1)
	go startInHost(cmd, started, ended)
	if err := <-started; err != nil {
		return 0, err
	}
	for {
		select {
		case s := <-asked:
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			return status(err)
		}
	}
}

// startInHost starts cmd and waits for it, on a thread that has joined the
// host's mount namespace and ends with this function.
func startInHost(cmd *exec.Cmd, started, ended chan<- error) {
	runtime.LockOSThread() // never unlocked; the parent-death signal is this thread's too
	err := join("/proc/1/ns/mnt")
	if err == nil {
		err = cmd.Start()
	}
	started <- err
	if err == nil {
		ended <- cmd.Wait()
	}
}

// join moves the calling thread, which must be locked, to a mount namespace.
func join(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoHost, err)
	}
	defer ns.Close()
	// Threads share root and working directory, which must not change for others.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("%w: %w", ErrNoHost, err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("%w: %w: is the container privileged?", ErrNoHost, err)
	}
	return nil
}

// distinct fails unless PID 1 has a mount namespace other than our own.
func distinct(host, own string) error {
	h, err := os.Readlink(host)
	if err != nil {
		return fmt.Errorf("%w: %w: is the container privileged?", ErrNoHost, err)
	}
	o, err := os.Readlink(own)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoHost, err)
	}
	if h == o {
		return fmt.Errorf("%w: PID 1 has the mount namespace of this process: the pod lacks hostPID, or this is no container", ErrNoHost)
	}
	return nil
}

// expand replaces image: where an argument, or a flag's value, begins with it.
func expand(args []string, image string) []string {
	all := make([]string, len(args))
	for i, a := range args {
		if rest, ok := strings.CutPrefix(a, imagePrefix); ok {
			a = image + rest
		} else if flag, value, ok := strings.Cut(a, "="+imagePrefix); ok && strings.HasPrefix(a, "-") {
			a = flag + "=" + image + value
		}
		all[i] = a
	}
	return all
}

// status is how a program ended, as a shell tells it.
func status(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, err
	}
	if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal()), nil
	}
	return exit.ExitCode(), nil
}
