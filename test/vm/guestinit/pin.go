package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pin turns on, for good, what the kernel turns on and off by rewriting its own code whenever the first user comes and the
// last one goes. While it does there is a breakpoint instruction in a hot path for a moment, and whatever was translated of it is
// translated again: in an old qemu a processor beside ran into the breakpoint when the moment was over, and the kernel died of it
// ("Oops: int3" in __schedule). What cannot be pinned is said on the console.
func pin() {
	for _, p := range []struct {
		what string
		pin  func() error
	}{
		{"events of tasks", pinTaskEvents}, {"netfilter", pinNetfilter}, {"CPU bandwidth", pinBandwidth},
	} {
		if err := p.pin(); err != nil {
			fmt.Printf("guestinit: pin %s: %v\n", p.what, err)
		}
	}
}

// pinTaskEvents opens a perf event of this process, and never closes it. Each CRIU sets breakpoints in the tasks that it dumps
// and restores, which are such events (kernel: kernel/events/core.c, account_event, perf_sched_events).
func pinTaskEvents() error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY}
	attr.Size = uint32(unsafe.Sizeof(attr))
	_, err := unix.PerfEventOpen(&attr, os.Getpid(), -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return err
}

// pinNetfilter has a chain that does nothing at each hook: every migration locks the pod's network with rules of its own
// (kernel: net/netfilter/core.c, nf_hooks_needed).
func pinNetfilter() error {
	var rules strings.Builder
	for _, family := range []string{"ip", "ip6"} {
		fmt.Fprintf(&rules, "table %s pin {\n", family)
		for _, hook := range []string{"prerouting", "input", "forward", "output", "postrouting"} {
			fmt.Fprintf(&rules, "chain %s { type filter hook %s priority 0; policy accept; }\n", hook, hook)
		}
		rules.WriteString("}\n")
	}
	cmd := exec.Command("/usr/sbin/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// pinBandwidth has an empty cgroup with a limit (kernel: kernel/sched/fair.c, cfs_bandwidth_usage_inc).
func pinBandwidth() error {
	const root = "/sys/fs/cgroup"
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
		return err
	}
	dir := filepath.Join(root, "pin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "cpu.max"), []byte("50000 100000"), 0)
}
