package steering

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// link is a network namespace beside ours and what connects the two.
type link struct {
	name string
	ns   netns.NsHandle
	far  string // the address in there
}

// openLink makes one that takes so many bits a second from here to there; 0 is without limit.
func openLink(rate uint64) (l *link, err error) {
	// Of the addresses that are for benchmarks (RFC 2544), one pair for each process.
	pair := uint32(os.Getpid()) % (1 << 15)
	near := net.IPv4(198, 18+byte(pair>>14), byte(pair>>6), byte(pair<<2)+1)
	l = &link{name: fmt.Sprintf("gw-steer%d", pair), ns: netns.None(), far: net.IPv4(near[12], near[13], near[14], near[15]+1).String()}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("link of %d bit/s: %w", rate, err), l.close())
		}
	}()
	if err = inside(netns.None(), func() (err error) {
		l.ns, err = netns.New()
		return err
	}); err != nil {
		return l, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(l.ns)}
	if err = netlink.LinkAdd(veth); err != nil {
		return l, err
	}
	if err = bringUp(l.name, near.String()); err != nil {
		return l, err
	}
	if err = inside(l.ns, func() error { return bringUp("eth0", l.far) }); err != nil {
		return l, err
	}
	return l, l.shape(rate)
}

// shape bounds what leaves for the far end, with 20 ms of it waiting at most.
func (l *link) shape(rate uint64) error {
	if rate == 0 {
		return nil
	}
	burst := max(128<<10, rate/8/500)
	commands := fmt.Sprintf("qdisc add dev %s root handle 1: htb default 10\n"+
		"class add dev %s parent 1: classid 1:10 htb rate %dbit burst %d cburst %d quantum 60000\n"+
		"qdisc add dev %s parent 1:10 handle 10: bfifo limit %d\n", l.name, l.name, rate, burst, burst, l.name, max(512<<10, rate/8/50))
	tc := exec.Command("tc", "-batch", "-")
	tc.Stdin = strings.NewReader(commands)
	if out, err := tc.CombinedOutput(); err != nil {
		return fmt.Errorf("tc: %w: %s", err, out)
	}
	return nil
}

func bringUp(name, address string) error {
	dev, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address + "/30")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(dev, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(dev)
}

// close removes it.
func (l *link) close() error {
	if l.ns.IsOpen() {
		l.ns.Close()
	}
	dev, err := netlink.LinkByName(l.name)
	if err != nil {
		return nil // it went with its namespace
	}
	return netlink.LinkDel(dev)
}

// inside calls f on a thread that is in a namespace, or may leave ours if that is none.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return // and the thread with it
		}
		defer home.Close()
		if ns.IsOpen() {
			err = netns.Set(ns)
		}
		if err == nil {
			err = f()
		}
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
