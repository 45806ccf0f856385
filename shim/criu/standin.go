package criu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/timerslack"
)

// EnvStandIns names the directory in which programs find this one under the names of others, before those.
const EnvStandIns = "GODWIT_CRIU_STAND_INS"

// lockersDir is where, in the directory of the stand-ins, those for networkLockers are: CRIU finds them, and not runc, whose hooks may have
// rules to set.
const lockersDir = "lockers"

// standInCRIU is what runc executes.
const standInCRIU = "criu"

// networkLockers are what CRIU locks the network by, each with the arguments of which it has one then (criu/net.c, iptables_restore and
// iptables_has_criu_jump_target; criu/netfilter.c, iptables_connection_switch_raw). Under their names we do nothing. That is needed where CRIU
// cannot be told to leave the network alone: before 3.19 never, and in a restore of what such a one dumped, whose method counts (criu/image.c,
// check_img_inventory). With other arguments they find out what the machine has, or carry the rules of a namespace that the container has made.
var networkLockers = map[string][]string{
	"iptables": {"-I", "-D", "-C"}, "iptables-restore": {"--noflush"},
	"ip6tables": {"-I", "-D", "-C"}, "ip6tables-restore": {"--noflush"},
}

// placeStandIns makes the directory.
func placeStandIns(dir string) error {
	lockers := filepath.Join(dir, lockersDir)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(lockers, 0o700)); err != nil {
		return fmt.Errorf("directory of what stands in for programs: %w", err)
	}
	// It holds whatever becomes of our file, and wherever that is mounted.
	self := fmt.Sprintf("/proc/%d/exe", os.Getpid())
	paths := []string{filepath.Join(dir, standInCRIU)}
	for name := range networkLockers {
		paths = append(paths, filepath.Join(lockers, name))
	}
	for _, path := range paths {
		if err := os.Symlink(self, path); err != nil {
			return fmt.Errorf("what stands in for %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// StandIn does what this program is to do under the name of another, which stands before its arguments, and says whether
// it was called by one. It does not return where it becomes the real one.
func StandIn(args []string) (stood bool, err error) {
	dir := os.Getenv(EnvStandIns)
	if dir == "" || len(args) == 0 {
		return false, nil
	}
	name := filepath.Base(args[0])
	locking, isLocker := networkLockers[name]
	switch {
	case isLocker && slices.ContainsFunc(args[1:], func(arg string) bool { return slices.Contains(locking, arg) }):
		return true, nil
	case name == standInCRIU && len(args) == 3 && args[1] == "swrk":
		if err := joinRelay(dir, args[2]); err != nil {
			return true, fmt.Errorf("reach the shim: %w", err)
		}
	case name != standInCRIU && !isLocker:
		return false, nil
	}
	lockers := filepath.Join(dir, lockersDir)
	path, err := realProgram(name, dir, lockers)
	if err != nil {
		return true, err
	}
	if name == standInCRIU {
		runtime.LockOSThread() // until it is executed
		err := errors.Join(
			os.Setenv("PATH", lockers+string(os.PathListSeparator)+os.Getenv("PATH")),
			// It finds what it calls in its libraries now, and not at the first call of each, when the pod stands still (ld.so(8)).
			os.Setenv("LD_BIND_NOW", "1"),
			// What it restores has its timer slack, whatever that of the shim is, or of who has started that.
			timerslack.Usually())
		if err != nil {
			return true, err
		}
		return true, fmt.Errorf("execute %s: %w", path, becomeCRIU(path, args))
	}
	return true, fmt.Errorf("execute %s: %w", path, unix.Exec(path, args, os.Environ()))
}

// realProgram finds the program of a name that is there without us.
func realProgram(name string, without ...string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) || slices.Contains(without, dir) {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// joinRelay gives the shim the socket that this process has inherited, by its number, and puts one to the shim in its place.
func joinRelay(dir, number string) error {
	var fd int
	if _, err := fmt.Sscanf(number, "%d", &fd); err != nil {
		return fmt.Errorf("socket %q: %w", number, err)
	}
	address, done, err := throughDirectory(dir)
	if err != nil {
		return err
	}
	defer done()
	ours, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(ours, &unix.SockaddrUnix{Name: address.Name}); err != nil {
		return err
	}
	if err := unix.Sendmsg(ours, []byte{0}, unix.UnixRights(fd), nil, 0); err != nil {
		return err
	}
	return unix.Dup3(ours, fd, 0)
}
