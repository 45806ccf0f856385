package nodecontroller

import (
	"bufio"
	"context"
	"errors"
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

// compatible says whether a pod of node from can run on node to. Either may be a
// peer's word. Its error wraps errdefs.ErrFailedPrecondition.
func compatible(from, to *peerv1.Node) error {
	if from == nil || to == nil {
		return fmt.Errorf("a node does not say what it is: %w", errdefs.ErrFailedPrecondition)
	}
	if from.Architecture != to.Architecture {
		return fmt.Errorf("node %s is %s, node %s is %s: %w", from.Name, from.Architecture, to.Name, to.Architecture, errdefs.ErrFailedPrecondition)
	}
	if err := compatibleCRIU(from, to); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	for _, n := range []*peerv1.Node{from, to} {
		if n.OciRuntime != "" && n.OciRuntime != string(ociruntime.Runc) {
			return fmt.Errorf("containers of node %s are run by %.40q, which cannot take part in a move: run godwitctl check there: %w",
				n.Name, n.OciRuntime, errdefs.ErrFailedPrecondition)
		}
	}
	var lacking []string
	for _, f := range from.CpuFeatures {
		if !slices.Contains(to.CpuFeatures, f) {
			lacking = append(lacking, f)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("the CPU of node %s lacks %s of node %s, which the pod may use: %w",
			to.Name, strings.Join(lacking, ", "), from.Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// compatibleCRIU says whether the CRIU of node to restores what that of node from
// dumps.
func compatibleCRIU(from, to *peerv1.Node) error {
	dumps, err := usableCRIU(from)
	if err != nil {
		return err
	}
	restores, err := usableCRIU(to)
	if err != nil {
		return err
	}
	if err := restores.Restores(dumps); err != nil {
		return fmt.Errorf("node %s cannot restore what node %s dumps: %w: install CRIU %v or later on node %s", to.Name, from.Name, err, dumps, to.Name)
	}
	return nil
}

// usableCRIU is the CRIU of a node, which Godwit must be able to drive. One that
// is newer than Godwit may be able to.
func usableCRIU(n *peerv1.Node) (criuversion.Version, error) {
	if n.Criu == "" {
		return criuversion.Version{}, fmt.Errorf("node %s has no working CRIU: run godwitctl check there", n.Name)
	}
	v, err := criuversion.Parse(n.Criu)
	if err != nil {
		return v, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if err := v.Supported(); errors.Is(err, criuversion.ErrTooOld) {
		return v, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if got := n.PageServerMessage; got != 0 && int(got) != v.PageServerMessage() {
		return v, fmt.Errorf("node %s has a CRIU %v whose page-server messages have %d bytes, not %d: it is not the released one; install that", n.Name, v, got, v.PageServerMessage())
	}
	return v, nil
}
