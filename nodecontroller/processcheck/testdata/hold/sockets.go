package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func sock(family, kind, protocol int) func() error {
	return fd(func() (int, error) { return unix.Socket(family, kind, protocol) })
}

// giveAway leaves a file to a process that does not descend from this one.
func giveAway(fd int) error {
	file := os.NewFile(uintptr(fd), "given")
	outside := exec.Command("/usr/bin/setsid", "--fork", "sleep", "600")
	outside.ExtraFiles = []*os.File{file}
	if err := outside.Run(); err != nil {
		return err
	}
	return file.Close()
}

func connectedElsewhere() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return giveAway(pair[1])
}

func unixPair() error {
	_, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	return err
}

// manyUnix has unix sockets of every type, unnamed, with a path and abstract,
// listening, connected and waiting to be accepted.
func manyUnix() error {
	for i, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET, unix.SOCK_DGRAM} {
		for j, name := range []string{"", fmt.Sprint("/tmp/many-", i), fmt.Sprint("@many-", i)} {
			f, err := unix.Socket(unix.AF_UNIX, kind, 0)
			if err != nil || j == 0 {
				continue
			}
			if err := unix.Bind(f, &unix.SockaddrUnix{Name: name}); err != nil {
				return err
			}
			if kind != unix.SOCK_DGRAM {
				if err := unix.Listen(f, 8); err != nil {
					return err
				}
			}
			for range 2 {
				c, err := unix.Socket(unix.AF_UNIX, kind, 0)
				if err != nil {
					return err
				}
				if err := unix.Connect(c, &unix.SockaddrUnix{Name: name}); err != nil {
					return err
				}
			}
			if kind != unix.SOCK_DGRAM {
				if _, _, err := unix.Accept(f); err != nil {
					return err
				}
			}
		}
	}
	return unixPair()
}

// inheritedSocket wants the starter to have given one end of a pair as standard input.
func inheritedSocket() error {
	_, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_TYPE)
	return err
}

func unreadNetlink() error {
	f, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if err := unix.Bind(f, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	// RTM_GETLINK of everything: the answer stays unread.
	request := []byte{20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Sendto(f, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func netlinkGroup() error {
	f, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if err := unix.Bind(f, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	return unix.SetsockoptInt(f, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 34)
}

func corked() error {
	f, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	return unix.SetsockoptInt(f, unix.SOL_UDP, unix.UDP_CORK, 1)
}

func listening(address string) func() error {
	return func() error {
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		l, err := config.Listen(context.Background(), "tcp4", address)
		kept = append(kept, l)
		return err
	}
}

func connected() error {
	if err := listening("127.0.0.1:7003")(); err != nil {
		return err
	}
	c, err := net.Dial("tcp4", "127.0.0.1:7003")
	kept = append(kept, c)
	return err
}
