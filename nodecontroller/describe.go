package nodecontroller

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/cri"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/preflight"
	"godwit.dev/godwit/ociruntime"
	"godwit.dev/godwit/pagestream/criuversion"
)

// Version is this build's, set by the linker.
var Version = "devel"

// describeNode says what this node is, now: programs are replaced while a daemon
// runs. What cannot be found out is left empty.
func describeNode(ctx context.Context, c *Config, pods podRuntime) *peerv1.Node {
	n := &peerv1.Node{
		Name:         c.NodeName,
		Version:      Version,
		Architecture: runtime.GOARCH,
		Address:      c.Advertise,
		Runc:         toolVersion("runc", "--version"),
		CpuFeatures:  cpuFeatures(),
	}
	if v, err := criuversion.Installed(ctx, nil); err == nil {
		n.Criu, n.PageServerMessage = v.String(), uint32(v.PageServerMessage())
	}
	if runtimes, err := pods.Runtimes(ctx); err == nil {
		if r, err := ociruntime.Identify(ctx, runtimes[cri.Handler].OCIRuntime(), nil); err == nil {
			n.OciRuntime = string(r.Kind)
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		n.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return n
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

// toolVersion is the first version number that a program prints.
func toolVersion(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return ""
	}
	return versionNumber.FindString(string(out))
}

// instructionSets are the prefixes of those CPU features (x86's flags, arm64's
// Features) that programs look for at their start and use ever after.
var instructionSets = regexp.MustCompile(`^(sse|ssse|avx|amx|aes|vaes|pclmul|vpclmul|bmi|abm|adx|fma|f16c|movbe|popcnt|rdrand|rdseed|sha|gfni|xsave|cx16|lzcnt|asimd|sve|crc32|atomics|dotprod|fphp)`)

func cpuFeatures() []string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, ok := strings.Cut(s.Text(), ":")
		if key = strings.TrimSpace(key); !ok || (key != "flags" && key != "Features") {
			continue
		}
		features := slices.DeleteFunc(strings.Fields(value), func(f string) bool { return !instructionSets.MatchString(f) })
		slices.Sort(features)
		return features
	}
	return nil
}

// compatible says whether a pod of node from can run on node to, and names all
// that is against it. Either may be a peer's word. Its error wraps
// errdefs.ErrFailedPrecondition.
func compatible(from, to *peerv1.Node) error {
	if from == nil || to == nil {
		return fmt.Errorf("a node does not say what it is: %w", errdefs.ErrFailedPrecondition)
	}
	var against []string
	for _, f := range nodefacts.Compare(from, to) {
		if f.Status != preflight.Missing {
			continue
		}
		if f.Remedy != "" {
			f.Detail += ": " + f.Remedy
		}
		against = append(against, f.Detail)
	}
	if len(against) > 0 {
		return fmt.Errorf("%s: %w", strings.Join(against, "; "), errdefs.ErrFailedPrecondition)
	}
	return nil
}
