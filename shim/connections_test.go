package shim

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// namespaceHolder starts a process with a network namespace of its own, whose lo is up.
func namespaceHolder(t *testing.T) (pid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.Command("cat")
	cmd.Stdin = in
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		_ = cmd.Wait()
	})
	within(t, cmd.Process.Pid, func() error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		lo.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
	})
	return cmd.Process.Pid
}

func within(t *testing.T, pid int, do func() error) {
	t.Helper()
	if err := inNamespace(pid, networkNamespace, do); err != nil {
		t.Fatal(err)
	}
}

// connectWithin makes a connection in the namespace and returns its ends.
func connectWithin(t *testing.T, pid int, network, address string) (a, b net.Conn) {
	t.Helper()
	within(t, pid, func() error {
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		defer l.Close()
		// Not by net.Dial, which may do it in another thread, of another namespace.
		accepted := make(chan error, 1)
		go func() {
			var err error
			b, err = l.Accept()
			accepted <- err
		}()
		to := l.Addr().(*net.TCPAddr)
		if to.IP.IsUnspecified() {
			to.IP = net.IPv4(127, 0, 0, 1)
		}
		if a, err = dialHere(to); err != nil {
			return err
		}
		return <-accepted
	})
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// dialHere connects in the calling thread.
func dialHere(to *net.TCPAddr) (net.Conn, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: to.Port, Addr: [16]byte(to.IP.To16())})
	if ip := to.IP.To4(); ip != nil {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(ip)}
	}
	s, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(s), "connection")
	defer f.Close()
	if err := unix.Connect(s, address); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func TestConnectionsOfBothFamiliesAreReset(t *testing.T) {
	pid := namespaceHolder(t)
	for name, at := range map[string]struct{ network, address string }{
		"IPv4":                   {"tcp4", "127.0.0.1:0"},
		"IPv6":                   {"tcp6", "[::1]:0"},
		"IPv4 by an IPv6 socket": {"tcp", "[::]:0"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := connectWithin(t, pid, at.network, at.address)
			list, err := listConnections(pid)
			if err != nil || len(list) != 2 {
				t.Fatalf("%+v, %v; want two ends", list, err)
			}
			later, _ := connectWithin(t, pid, at.network, at.address)
			err = resetConnections(pid, list)
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, end := range []net.Conn{a, b} {
				if _, err := end.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("read: %v, want an error", err)
				}
			}
			if _, err := later.Write([]byte("x")); err != nil {
				t.Errorf("a connection that was not listed: %v", err)
			}
			if err := resetConnections(pid, list); err != nil {
				t.Errorf("connections that are gone: %v", err)
			}
		})
	}
}
