package nodecontroller

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// Version is this build's, set by the linker.
var Version = "devel"

// describeNode says what this node is. What cannot be found out is left empty.
func describeNode(c *Config) *peerv1.Node {
	n := &peerv1.Node{
		Name:         c.NodeName,
		Version:      Version,
		Architecture: runtime.GOARCH,
		Address:      c.Advertise,
		Criu:         toolVersion("criu", "--version"),
		Runc:         toolVersion("runc", "--version"),
		CpuFeatures:  cpuFeatures(),
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

// compatible says whether a pod of node from can run on node to. Its error wraps
// errdefs.ErrFailedPrecondition.
func compatible(from, to *peerv1.Node) error {
	switch {
	case from.Architecture != to.Architecture:
		return fmt.Errorf("node %s is %s, node %s is %s: %w", from.Name, from.Architecture, to.Name, to.Architecture, errdefs.ErrFailedPrecondition)
	case to.Criu == "":
		return fmt.Errorf("node %s has no working CRIU: run godwitctl check there: %w", to.Name, errdefs.ErrFailedPrecondition)
	case from.Criu == "":
		return fmt.Errorf("node %s has no working CRIU: run godwitctl check there: %w", from.Name, errdefs.ErrFailedPrecondition)
	case older(to.Criu, from.Criu):
		return fmt.Errorf("node %s has CRIU %s, which may not read what CRIU %s of node %s writes: upgrade it: %w",
			to.Name, to.Criu, from.Criu, from.Name, errdefs.ErrFailedPrecondition)
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

// older compares the first two numbers of versions: CRIU's images do not change
// within a minor release.
func older(a, b string) bool {
	x, y := majorMinor(a), majorMinor(b)
	return x[0] < y[0] || x[0] == y[0] && x[1] < y[1]
}

func majorMinor(v string) [2]int {
	var n [2]int
	for i, part := range strings.SplitN(v, ".", 3) {
		if i < 2 {
			n[i], _ = strconv.Atoi(part)
		}
	}
	return n
}
