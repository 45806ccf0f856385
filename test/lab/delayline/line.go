package delayline

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// inFlight is how many bytes the delayed direction may hold: what 20 Gbit/s sends in delay. Where more is sent the TAP's
// own queue fills and drops, as a switch's would.
func inFlight(delay time.Duration) int {
	const bytesPerSecond = 20e9 / 8
	return min(4<<20+int(delay.Seconds()*bytesPerSecond), 512<<20)
}

// headerSize is that of struct virtio_net_hdr, which IFF_VNET_HDR puts before each frame (linux/virtio_net.h).
const headerSize = 10

// Line is a link of two TAP devices, which live as long as the process that holds them.
type Line struct {
	Delay  time.Duration
	Exempt net.HardwareAddr // frames to it are not held

	near, far int // descriptors
}

// Open makes the two devices, down and without addresses, in the network namespace of the caller; the near one may then be
// moved to another.
func Open(near, far string, delay time.Duration, exempt net.HardwareAddr) (*Line, error) {
	n, err := openTap(near)
	if err != nil {
		return nil, err
	}
	f, err := openTap(far)
	if err != nil {
		unix.Close(n)
		return nil, err
	}
	return &Line{Delay: delay, Exempt: exempt, near: n, far: f}, nil
}

func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("TAP device %s: open /dev/net/tun: %w; a kernel without netem needs TUN for --delay", name, err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TAP device %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TAP device %s: %w", name, err)
	}
	// Take segments and checksums as the sender's TCP leaves them.
	const offload = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("TAP device %s: offload: %w", name, err)
	}
	return fd, nil
}

// Run moves frames until a device goes away, which happens when the node's network namespace ends.
func (l *Line) Run() error {
	// Wake up when a frame is due, not 50 microseconds later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	r := newRing(inFlight(l.Delay))
	start := time.Now()
	end := make(chan error, 3) // the first failure ends the process, and with it the others
	go func() { end <- l.take(r, start) }()
	go func() { end <- l.give(r, start) }()
	go func() { end <- pass(l.far, l.near) }()
	return <-end
}

// take reads what the node sends; what is not to be held goes on at once.
func (l *Line) take(r *ring, start time.Time) error {
	runtime.LockOSThread()
	for {
		frame := r.reserve()
		n, err := read(l.near, frame)
		if err != nil {
			return err
		}
		if n >= headerSize+6 && bytes.Equal(frame[headerSize:headerSize+6], l.Exempt) {
			if err := write(l.far, frame[:n]); err != nil {
				return err
			}
			continue
		}
		r.commit(n, time.Since(start)+l.Delay)
	}
}

// give sends each frame on when it is due.
func (l *Line) give(r *ring, start time.Time) error {
	runtime.LockOSThread()
	for {
		frame, due := r.next()
		if wait := due - time.Since(start); wait > 0 {
			ts := unix.NsecToTimespec(int64(wait))
			if err := unix.Nanosleep(&ts, nil); err != nil {
				continue // interrupted by a signal of the Go runtime: look at the clock again
			}
		}
		if err := write(l.far, frame); err != nil {
			return err
		}
		r.release(len(frame))
	}
}

// pass copies frames from one device to the other.
func pass(from, to int) error {
	runtime.LockOSThread()
	buf := make([]byte, maxFrame)
	for {
		n, err := read(from, buf)
		if err != nil {
			return err
		}
		if err := write(to, buf[:n]); err != nil {
			return err
		}
	}
}

func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch err {
		case nil:
			if n == 0 {
				return 0, io.EOF
			}
			return n, nil
		case unix.EINTR, unix.EAGAIN:
		default:
			return 0, os.NewSyscallError("read a frame", err)
		}
	}
}

// write sends a frame; one that the device refuses, because it is down or its queue is full, is lost as on any link.
func write(fd int, frame []byte) error {
	_, err := unix.Write(fd, frame)
	switch err {
	case nil, unix.EINTR, unix.EAGAIN, unix.EIO, unix.EINVAL, unix.ENOBUFS, unix.ENOMEM:
		return nil
	}
	return os.NewSyscallError("write a frame", err)
}
