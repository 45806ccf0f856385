// Package inhost has a program of a container go on in the mount namespace of
// the host: the node daemon mounts, reads and starts what containerd, shims and
// CRIU see too, and a pod is merely how it gets there and stays alive. The pod
// must be privileged and have hostPID. What the program reads of its container,
// such as its configuration and its token, it finds below ImageRoot.
package inhost

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// envImage tells the program by which of its descriptors it holds its container:
// the root's and the mount namespace's, with a comma between.
const envImage = "GODWIT_IMAGE"

// imagePrefix in an argument stands for the root of the container.
const imagePrefix = "image:"

// searchPath has containerd's programs and CRIU's wherever distributions put them.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// ErrNoHost is returned where the host's mount namespace cannot be reached.
var ErrNoHost = errors.New("the host's mount namespace cannot be joined")

// ImageRoot is the root of the container that Exec was called in, or empty if
// this process does not come from there.
func ImageRoot() string {
	h, ok := parse(os.Getenv(envImage))
	if !ok {
		return ""
	}
	return h.rootPath()
}

// held are the descriptors of a container.
type held struct{ root, namespace int }

func (h held) rootPath() string { return "/proc/self/fd/" + strconv.Itoa(h.root) }

func parse(value string) (h held, ok bool) {
	n, err := fmt.Sscanf(value, "%d,%d", &h.root, &h.namespace)
	return h, err == nil && n == 2
}

// Exec replaces this program by one of the host, or with an empty name by this
// one again, in the mount namespace of the host's PID 1. In the arguments,
// image: before a path makes it one of the container. It returns only if it
// fails.
func Exec(program string, args []string) error {
	if err := distinct("/proc/1/ns/mnt", "/proc/self/ns/mnt"); err != nil {
		return err
	}
	// The thread that joins is the one that is executed; the others end with that.
	runtime.LockOSThread()
	image, err := hold()
	if err != nil {
		return err
	}
	if err := join("/proc/1/ns/mnt"); err != nil {
		return err
	}
	path := searchPath
	if program == "" {
		program = "/proc/self/exe"
	} else {
		path = filepath.Dir(program) + ":" + path
	}
	argv := append([]string{program}, expand(args, image.rootPath())...)
	if err := syscall.Exec(program, argv, environment(os.Environ(), path, image)); err != nil {
		return fmt.Errorf("%s on the host: %w", program, err)
	}
	return nil
}

// hold opens the container's root so that it stays what it is: a mount
// namespace in which no process is left comes apart unless it is held too.
func hold() (h held, err error) {
	// Not closed by the execution; see Keep for those after it.
	if h.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return h, fmt.Errorf("root of the container: %w", err)
	}
	if h.namespace, err = unix.Open("/proc/self/ns/mnt", unix.O_RDONLY, 0); err != nil {
		return h, fmt.Errorf("mount namespace of the container: %w", err)
	}
	return h, nil
}

// Keep keeps to this process the descriptors that Exec left it: what it starts
// has no business in the container. A program that may come from Exec calls it
// before it starts others.
func Keep() {
	if h, ok := parse(os.Getenv(envImage)); ok {
		unix.CloseOnExec(h.root)
		unix.CloseOnExec(h.namespace)
	}
}

// join moves the calling thread, which must be locked, to a mount namespace.
func join(path string) error {
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoHost, err)
	}
	defer ns.Close()
	// Threads share root and working directory, which must be one's own for this.
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

// environment is the container's, with the search path of the host.
func environment(env []string, path string, image held) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "PATH=") })
	return append(env, "PATH="+path, fmt.Sprintf("%s=%d,%d", envImage, image.root, image.namespace))
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
