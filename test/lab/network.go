package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/pace"
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ensureBridge makes the bridge on which all nodes and the host meet, and settles the lab's addresses: those of the bridge
// if there is one, else the first that nothing on the host uses.
func (l *layout) ensureBridge(ctx context.Context) error {
	// Labs that come up at the same time must not choose the same.
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "addresses"))
	if err != nil {
		return err
	}
	defer release()
	br, err := netlink.LinkByName(l.bridge())
	if missing(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.bridge()
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("bridge %s: %w", l.bridge(), err)
		}
		br, err = netlink.LinkByName(l.bridge())
	}
	if err != nil {
		return fmt.Errorf("bridge %s: %w", l.bridge(), err)
	}
	if l.base = bridgeBase(br); l.base == 0 {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			return fmt.Errorf("routes of the host: %w", err)
		}
		if l.base, err = freeBase(destinations(routes)); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetHardwareAddr(br, l.mac(0)); err != nil {
		return fmt.Errorf("bridge %s: %w", l.bridge(), err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return fmt.Errorf("bridge %s: %w", l.bridge(), err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(l.hostAddr(), l.management().Bits()))}
	if err := netlink.AddrReplace(br, addr); err != nil {
		return fmt.Errorf("bridge %s: address: %w", l.bridge(), err)
	}
	return nil
}

// findBase reads the lab's addresses off its bridge, if there is one.
func (l *layout) findBase() {
	if br, err := netlink.LinkByName(l.bridge()); err == nil {
		l.base = bridgeBase(br)
	}
}

func bridgeBase(br netlink.Link) int {
	addrs, err := netlink.AddrList(br, netlink.FAMILY_V4)
	if err != nil || len(addrs) == 0 {
		return 0
	}
	return int(addrs[0].IP.To4()[1])
}

func destinations(routes []netlink.Route) []netip.Prefix {
	var all []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		if addr, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ones > 0 { // the default route is in nobody's way
			all = append(all, netip.PrefixFrom(addr, ones))
		}
	}
	return all
}

// firstBase is 10.88.0.0/24 for nodes and 10.89.0.0/16 for pods: what the only lab on a machine has.
const firstBase = 88

// freeBase finds addresses that no route of the host covers, so that no lab is cut off by another or by the host's network.
func freeBase(used []netip.Prefix) (int, error) {
	for base := firstBase; base < 254; base += 2 {
		l := layout{base: base}
		if !slices.ContainsFunc(used, func(p netip.Prefix) bool { return p.Overlaps(l.management()) || p.Overlaps(l.podNetwork()) }) {
			return base, nil
		}
	}
	return 0, errors.New("no addresses are free for the lab: the host has routes to all of 10.88.0.0 to 10.253.255.255")
}

// attach gives a running node its uplink of the wanted kind.
func (l layout) attach(s *nodeState, shape Shape, netem bool) error {
	up := uplink{Kind: uplinkVeth, Rate: shape.Rate, Delay: shape.Delay}
	if shape.Delay > 0 && !netem {
		up.Kind = uplinkDelayLine
	}
	br, err := netlink.LinkByName(l.bridge())
	if err != nil {
		return fmt.Errorf("bridge %s: %w", l.bridge(), err)
	}
	near := "eth0"
	if up.Kind == uplinkVeth {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.hostLink(s.Index)
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: near, PeerHardwareAddr: l.mac(10 + s.Index), PeerNamespace: netlink.NsPid(s.PID)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("link of node %s: %w", s.Name, err)
		}
	} else {
		near = l.nearTap(s.Index)
		if up, err = l.startDelayLine(*s, up); err != nil {
			return err
		}
		tap, err := netlink.LinkByName(near)
		if err != nil {
			return fmt.Errorf("delay line of node %s: %w", s.Name, err)
		}
		if err := netlink.LinkSetNsPid(tap, s.PID); err != nil {
			return fmt.Errorf("delay line of node %s: %w", s.Name, err)
		}
	}
	host, err := netlink.LinkByName(l.hostLink(s.Index))
	if err != nil {
		return fmt.Errorf("link of node %s: %w", s.Name, err)
	}
	if err := netlink.LinkSetMaster(host, br); err != nil {
		return fmt.Errorf("link of node %s: %w", s.Name, err)
	}
	if err := netlink.LinkSetUp(host); err != nil {
		return fmt.Errorf("link of node %s: %w", s.Name, err)
	}
	if err := l.addressNode(*s, near); err != nil {
		return fmt.Errorf("address of node %s: %w", s.Name, err)
	}
	s.Uplink = up
	return nil
}

// addressNode names the node's end of its uplink eth0 and gives it its address and default route.
func (l layout) addressNode(s nodeState, near string) error {
	h, err := nodeNetlink(s.PID)
	if err != nil {
		return err
	}
	defer h.Close()
	link, err := h.LinkByName(near)
	if err != nil {
		return err
	}
	if near != "eth0" {
		if err := h.LinkSetName(link, "eth0"); err != nil {
			return err
		}
		if err := h.LinkSetHardwareAddr(link, l.mac(10+s.Index)); err != nil {
			return err
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(l.nodeAddr(s.Index), l.management().Bits()))}
	if err := h.AddrReplace(link, addr); err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	return h.RouteReplace(&netlink.Route{Gw: l.hostAddr().AsSlice()})
}

// startDelayLine starts the process between the two TAP devices; their far end becomes the host's end of the uplink.
func (l layout) startDelayLine(s nodeState, up uplink) (uplink, error) {
	args := append(l.marker(s.Name), l.nearTap(s.Index), l.hostLink(s.Index), up.Delay.String(), l.mac(0).String())
	d, err := launch(arg0Delay, args, l.linkCgroup(s.Name), filepath.Join(l.logDir(s.Name), "link.log"))
	if err != nil {
		return up, err
	}
	defer d.close()
	if err := d.waitReady(pace.Stretch(10 * time.Second)); err != nil {
		return up, fmt.Errorf("delay line of node %s: %w", s.Name, err)
	}
	up.PID = d.pid
	_, up.Ticks, err = stat(d.pid)
	return up, err
}

// detach takes a node's uplink away.
func (l layout) detach(node string, index int) error {
	if err := endCgroup(l.linkCgroup(node)); err != nil {
		return err
	}
	for _, name := range []string{l.hostLink(index), l.nearTap(index)} {
		if err := removeLink(name); err != nil {
			return err
		}
	}
	return nil
}

// attached says whether the node's uplink is as wanted, apart from the figures that tc can change.
func (l layout) attached(s nodeState, shape Shape, netem bool) bool {
	if _, err := netlink.LinkByName(l.hostLink(s.Index)); err != nil {
		return false
	}
	if shape.Delay > 0 && !netem {
		return s.Uplink.Kind == uplinkDelayLine && s.Uplink.Delay == shape.Delay && sameProcess(s.Uplink.PID, s.Uplink.Ticks)
	}
	return s.Uplink.Kind == uplinkVeth
}

// route makes the pods of every node reachable from every other, from the host and from machines without pods.
func (l layout) route(nodes, others []nodeState) error {
	for _, to := range nodes {
		route := netlink.Route{Dst: ipNet(l.podSubnet(to.Index)), Gw: l.nodeAddr(to.Index).AsSlice()}
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route of the host to the pods of %s: %w", to.Name, err)
		}
	}
	for _, from := range slices.Concat(nodes, others) {
		if err := l.routeFrom(from, nodes); err != nil {
			return fmt.Errorf("routes of node %s: %w", from.Name, err)
		}
	}
	return nil
}

func (l layout) routeFrom(from nodeState, nodes []nodeState) error {
	h, err := nodeNetlink(from.PID)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, to := range nodes {
		if to.Name == from.Name {
			continue
		}
		route := netlink.Route{Dst: ipNet(l.podSubnet(to.Index)), Gw: l.nodeAddr(to.Index).AsSlice()}
		if err := h.RouteReplace(&route); err != nil {
			return fmt.Errorf("to the pods of %s: %w", to.Name, err)
		}
	}
	return nil
}

// removeLinks removes every interface of this lab from the host, known or not.
func (l layout) removeLinks() error {
	links, err := listLinks()
	if err != nil {
		return fmt.Errorf("links of the host: %w", err)
	}
	for _, link := range links {
		if !strings.HasPrefix(link.Attrs().Name, l.linkPrefix()) {
			continue
		}
		if err := removeLink(link.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

// listTries is how often a list of links is asked for that changes meanwhile.
const listTries = 20

// listLinks lists the host's links. The kernel says when some came or went while
// it told them (NLM_F_DUMP_INTR), and then some may be missing: it is asked again.
func listLinks() ([]netlink.Link, error) {
	for left := listTries; ; left-- {
		links, err := netlink.LinkList()
		if left == 1 || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return links, err
		}
	}
}

// removeLink deletes a link; one that goes away by itself meanwhile is as good.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if missing(err) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !missing(err) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

func missing(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}

// nodeNetlink speaks netlink in the network namespace of a process.
func nodeNetlink(pid int) (*netlink.Handle, error) {
	ns, err := netns.GetFromPath("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return h, nil
}

// inNetNS calls f on a thread that is in the network namespace of a process. Sockets that f makes stay there.
func inNetNS(pid int, f func() error) error {
	return onThread(func() error {
		ns, err := netns.GetFromPath("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread whose network namespace f may change, and changes it back.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("network namespace: %w", err)
			return
		}
		defer home.Close()
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		} // else the runtime ends the thread with this goroutine
		done <- err
	}()
	return <-done
}
