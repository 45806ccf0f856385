package wire

import (
	"time"

	"golang.org/x/sys/unix"
)

// bottleneck is what a stream waits for.
type bottleneck uint8

const (
	processors   bottleneck = iota // this machine's, nothing is waited for
	theLink                        // the link, or a limit on what is sent
	receiverSlow                   // the peer does not take what the link brings
)

func (b bottleneck) String() string {
	return [...]string{processors: "the processors are", theLink: "the link is", receiverSlow: "the receiver is"}[b] + " the bottleneck"
}

const (
	// heldBack is the part of an epoch's time from which on a stream that
	// waits counts as held back.
	heldBack = 0.3
	// ahead is how long what lies in our socket must take to be sent for the stream to count as held back
	// before it has to wait.
	ahead = 10 * time.Millisecond
	// onTheWay is the part of an epoch in which bytes must have been on their way, with room for
	// them at the peer, if it is the link that was waited for.
	onTheWay = 0.5
)

// socket is what the kernel says of a connection. The first three are sums since its start (struct tcp_info,
// net/ipv4/tcp.c, tcp_get_info and tcp_get_info_chrono_stats).
type socket struct {
	busy      time.Duration // in which something was on its way or waited for that: tcpi_busy_time
	full      time.Duration // of it, in which the peer had no room in its window: tcpi_rwnd_limited
	acked     uint64        // bytes that the peer's kernel has: tcpi_bytes_acked
	unsent    uint64        // bytes that wait in ours: tcpi_notsent_bytes
	roundTrip time.Duration // the shortest so far: tcpi_min_rtt
	window    uint64        // bytes for which the peer has room: tcpi_snd_wnd
}

// socket asks the kernel; false if that does not say.
func (c *pageConn) socket() (s socket, ok bool) {
	raw, err := c.batch.SyscallConn()
	if err != nil {
		return s, false
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return s, false
	}
	return socket{
		busy: time.Duration(info.Busy_time) * time.Microsecond, full: time.Duration(info.Rwnd_limited) * time.Microsecond,
		acked: info.Bytes_acked, unsent: uint64(info.Notsent_bytes),
		roundTrip: time.Duration(info.Min_rtt) * time.Microsecond, window: uint64(info.Snd_wnd),
	}, true
}

// stretch is an epoch as far as it tells what was waited for.
type stretch struct {
	wall    time.Duration // from its beginning to its end
	total   time.Duration // in calls on the stream
	waited  time.Duration // of total, whatever for
	limited time.Duration // of waited, for a limit on the bandwidth
	wire    uint64        // bytes

	asked     bool          // whether what follows is known
	busy      time.Duration // of wall, see socket
	full      time.Duration // of busy
	acked     uint64        // bytes
	unsent    uint64        // bytes, in the end
	roundTrip time.Duration
	window    uint64 // the largest that the peer had so far, bytes
}

// bottleneck tells what held the stream back. A peer whose window is closed, or that has all bytes and
// does not acknowledge them as stored, is slow; while bytes are on their way to
// one that has room, it is the link. A window that one round trip fills is closed by the length of the link.
func (s stretch) bottleneck() bottleneck {
	switch waited := s.waited.Seconds() > heldBack*s.total.Seconds(); {
	case !waited && !s.isAhead():
		return processors
	case !s.asked || waited && s.isLimited():
		return theLink
	}
	if 2*s.full > s.busy && 2*s.ackedRate()*s.roundTrip.Seconds() > float64(s.window) {
		return theLink
	}
	if (s.busy - s.full).Seconds() >= onTheWay*s.wall.Seconds() {
		return theLink
	}
	return receiverSlow
}

// isLimited says whether what was waited for was a limit on the bandwidth.
func (s stretch) isLimited() bool { return s.limited > 0 && 2*s.limited > s.waited }

// isAhead says whether more was handed to the kernel than gets away soon.
func (s stretch) isAhead() bool {
	return s.asked && s.unsent > epochBytes && float64(s.unsent) > s.ackedRate()*ahead.Seconds()
}

// ackedRate is how fast the peer's kernel took bytes, per second.
func (s stretch) ackedRate() float64 { return float64(s.acked) / s.wall.Seconds() }

// through is how fast wire bytes got through, per second. What only filled the buffers on the way does not count.
func (s stretch) through() float64 {
	handed := float64(s.wire) / s.total.Seconds()
	if !s.asked {
		return handed
	}
	return min(handed, s.ackedRate())
}
