package lab

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one entry of /proc.
type process struct {
	pid  int
	args []string
}

// processes lists what runs on the machine; what ends meanwhile is left out.
func processes() []process {
	entries, _ := os.ReadDir("/proc")
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || len(b) == 0 {
			continue
		}
		all = append(all, process{pid: pid, args: strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")})
	}
	return all
}

// nodeOf says which node of the lab the process was started for, by its marker.
func (p process) nodeOf(l layout) (string, bool) {
	if len(p.args) < 3 || !strings.HasPrefix(p.args[0], arg0Prefix) || p.args[1] != l.marker("")[0] {
		return "", false
	}
	return strings.CutPrefix(p.args[2], "node=")
}

// stat gives the state letter and the start time (in clock ticks after boot) of a process. See proc_pid_stat(5): the
// command name, in parentheses, may contain anything, so fields are counted from the last one.
func stat(pid int) (state byte, ticks uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(b)
}

func parseStat(b []byte) (state byte, ticks uint64, err error) {
	_, rest, ok := bytes.Cut(b[max(0, bytes.LastIndexByte(b, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, 0, errors.New("stat: too few fields")
	}
	ticks, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return fields[0][0], ticks, err
}

// sameProcess says whether pid still is the process that started at ticks, and no zombie.
func sameProcess(pid int, ticks uint64) bool {
	if pid <= 0 {
		return false
	}
	state, t, err := stat(pid)
	return err == nil && t == ticks && state != 'Z' && state != 'X'
}

// running drops the pids that are gone, or zombies, which hold nothing any more.
func running(pids []int) []int {
	return slices.DeleteFunc(pids, func(pid int) bool {
		state, _, err := stat(pid)
		return err != nil || state == 'Z' || state == 'X'
	})
}

// inMountNS lists the processes whose mount namespace is ns, such as "mnt:[4026531841]", if its root file system is written to
// data. The number alone does not tell: the kernel gives that of a namespace that has ended to the next one, such as that of a
// pod that starts on another node in this moment.
func inMountNS(ns, data string) []int {
	if ns == "" || ns == namespace(os.Getpid(), "mnt") {
		return nil
	}
	var pids []int
	for _, p := range processes() {
		if namespace(p.pid, "mnt") == ns && writesTo(p.pid, data) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// writesTo says whether the process sees a file system whose writable layer is below data.
func writesTo(pid int, data string) bool {
	mounts, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	return err == nil && bytes.Contains(mounts, []byte("upperdir="+data+"/"))
}

// namespace names a namespace of a process, or is empty where it cannot be read.
func namespace(pid int, kind string) string {
	ns, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns", kind))
	return ns
}

func kill(pids []int) {
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // gone is what is wanted
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
