package lab

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Shape is what the links between nodes are like, in each direction of each node. Traffic between a node and the host is
// not shaped: clients on the host measure pods, not the link.
type Shape struct {
	Rate  uint64        // bits per second that a node may send to other nodes; 0 is without limit
	Delay time.Duration // one way between two nodes, half of the round trip; 0 is none
}

// ParseRate reads a rate as tc writes it: a number and bit, kbit, mbit, gbit or tbit (powers of 1000), per second.
func ParseRate(s string) (uint64, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	number, ok := strings.CutSuffix(low, "bit")
	if !ok {
		return 0, fmt.Errorf("rate %q: want a number and kbit, mbit or gbit, such as 1gbit", s)
	}
	unit := 1.0
	for suffix, u := range map[string]float64{"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12} {
		if n, ok := strings.CutSuffix(number, suffix); ok {
			number, unit = n, u
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(v*unit >= 1000 && v*unit <= 1e12) {
		return 0, fmt.Errorf("rate %q: want from 1kbit to 1tbit", s)
	}
	return uint64(v * unit), nil
}

// unlimited is the rate of a class that is there for its filter or its delay only.
const unlimited = 100_000_000_000

// tcScript gives the commands (for tc -batch) that shape eth0 of a node. Sending is shaped, receiving is not: the sender's
// side did it. Everything goes to class 1:10, except what is for the host.
func tcScript(shape Shape, host string, netem bool) string {
	delay := shape.Delay
	if !netem {
		delay = 0 // the delay line's business
	}
	if shape.Rate == 0 && delay == 0 {
		return ""
	}
	rate := shape.Rate
	if rate == 0 {
		rate = unlimited
	}
	// A burst must hold the largest segment that offload makes, and what the rate gives between two timer ticks.
	burst := max(128<<10, rate/8/500)
	var b strings.Builder
	fmt.Fprintf(&b, "qdisc add dev eth0 root handle 1: htb default 10\n")
	fmt.Fprintf(&b, "class add dev eth0 parent 1: classid 1:10 htb rate %dbit burst %d cburst %d quantum 60000\n", rate, burst, burst)
	fmt.Fprintf(&b, "class add dev eth0 parent 1: classid 1:20 htb rate %dbit burst 1m cburst 1m quantum 60000\n", unlimited)
	fmt.Fprintf(&b, "filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst %s/32 flowid 1:20\n", host)
	if delay > 0 {
		fmt.Fprintf(&b, "qdisc add dev eth0 parent 1:10 handle 10: netem delay %dus limit 200000\n", delay.Microseconds())
	} else {
		// What a switch would hold: 20 ms, not the thousand segments of 64 KiB of the default.
		fmt.Fprintf(&b, "qdisc add dev eth0 parent 1:10 handle 10: bfifo limit %d\n", max(512<<10, rate/8/50))
	}
	return b.String()
}

// applyShape puts the node's tc rules in place of those it had.
func (n *Node) applyShape(ctx context.Context, shape Shape, netem bool) error {
	// Without rules there is nothing to delete, which tc calls an error.
	_ = n.Command(ctx, "tc", "qdisc", "del", "dev", "eth0", "root").Run()
	script := tcScript(shape, n.lab.hostAddr().String(), netem)
	if script == "" {
		return nil
	}
	cmd := n.Command(ctx, "tc", "-batch", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("shape the link of node %s: tc: %w: %s", n.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// haveNetem asks the kernel for a netem qdisc, in a network namespace that is thrown away.
var haveNetem = sync.OnceValue(func() bool {
	err := onThread(func() error {
		ns, err := netns.New()
		if err != nil {
			return err
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: lo.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
		return netlink.QdiscAdd(netlink.NewNetem(attrs, netlink.NetemQdiscAttrs{Latency: 1000}))
	})
	return err == nil
})
