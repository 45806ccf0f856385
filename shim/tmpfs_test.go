package shim

import (
	"bufio"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/shim/criu"
	"godwit.dev/godwit/shim/tmpfs"
)

// testMounts are mounts that are to be at paths.
func testMounts(t *testing.T, paths ...string) []arrivingTmpfs {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to mount")
	}
	var out []arrivingTmpfs
	for _, at := range paths {
		target, err := tmpfs.Mount{Path: "/dev"}.Make()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { target.File().Close() })
		out = append(out, arrivingTmpfs{target, at})
	}
	return out
}

func TestBothEndsGiveAMountTheSameName(t *testing.T) {
	d := &departure{tmpfs: []*tmpfs.Source{nil, {Mount: tmpfs.Mount{Path: "/dev"}}}}
	left := d.external()
	if len(left) != 1 || left[0] != (criu.External{Key: "/dev", Value: tmpfsName(1)}) {
		t.Fatalf("CRIU leaves out %v", left)
	}
	there := externalAt([]arrivingTmpfs{{at: "/at/0"}, {at: "/at/1"}})
	if len(there) != 2 || there[1] != (criu.External{Key: left[0].Value, Value: "/at/1"}) {
		t.Errorf("CRIU binds %v", there)
	}
}

func TestAMountThatTheImagesNameHasToHaveCome(t *testing.T) {
	images := t.TempDir()
	write := func(text string) {
		if err := os.WriteFile(filepath.Join(images, "mountpoints-12.img"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := newAttempt(1, nil)
	a.tmpfs = testMounts(t, "/at/0", "/at/1")
	defer a.release()
	write("some mounts")
	if err := a.fillTmpfs(images); err != nil {
		t.Errorf("of mounts that CRIU has dumped: %v", err)
	}
	write("a mount by name of " + tmpfsName(1))
	if err := a.fillTmpfs(images); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its records: %v", err)
	}
	if err := os.WriteFile(tmpfsRecords(images, 1), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.fillTmpfs(images); err != nil {
		t.Errorf("with its records: %v", err)
	}
}

func TestOnlyADestinationThatFillsMountsIsLeftThem(t *testing.T) {
	s := &source{log: slog.New(slog.DiscardHandler)}
	c := &departure{container: &container{id: "c1"}, pid: os.Getpid(), own: []tmpfs.Mount{{Path: "/dev"}}}
	s.openTmpfs(c)
	if c.tmpfs != nil || len(c.external()) != 0 {
		t.Errorf("CRIU leaves out %v", c.external())
	}
	d := &destination{log: s.log}
	a := newArrival()
	a.container = c.container
	if d.expectTmpfs(a, `[{"path":"/dev"}]`, []byte("no content")) || len(a.own) != 0 {
		t.Error("mounts are filled by what is no content")
	}
	for list, want := range map[string]bool{"": false, "{": false, `[{"path":"/dev","options":["mpol=bind:0"]}]`: false, "[]": true} {
		if got := d.expectTmpfs(a, list, nil); got != want || len(a.own) != 0 {
			t.Errorf("%q: filled is %v, %d mounts", list, got, len(a.own))
		}
	}
}

// inDev makes a tmpfs with one file as a container's, and says where it is.
func inDev(t *testing.T) (c *departure, dir string) {
	t.Helper()
	dir = "/tmp/godwit-own-" + strconv.Itoa(os.Getpid()) // a path that needs no quoting
	cmd := exec.Command("sh", "-c", `mount -t tmpfs -o mode=755 own "$0" && echo before >"$0/file" && echo ready && read -r end`, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(dir, 0o700), cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait(); os.Remove(dir) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the container says %q, %v", line, err)
	}
	pid := cmd.Process.Pid
	mounts, err := tmpfs.Find(pid)
	if err != nil {
		t.Fatal(err)
	}
	mounts = slices.DeleteFunc(mounts, func(m tmpfs.Mount) bool { return m.Path != dir })
	if len(mounts) != 1 {
		t.Fatalf("the container has %v", mounts)
	}
	return &departure{container: &container{id: "c1"}, pid: pid, own: mounts, images: t.TempDir()}, dir
}

func TestAMountThatIsFilledAheadIsOnlyChanged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs to mount")
	}
	for _, filled := range []bool{true, false} {
		t.Run(strconv.FormatBool(filled), func(t *testing.T) { aheadAndBack(t, filled) })
	}
}

// aheadAndBack has a mount arrive that was changed after it was sent ahead, at a destination that has filled it or not.
func aheadAndBack(t *testing.T, filled bool) {
	c, dir := inDev(t)
	var err error
	if c.tmpfsAhead, err = tmpfs.Open(c.pid, []int{c.pid}, c.own); err != nil {
		t.Fatal(err)
	}
	content, err := c.tmpfsAhead[0].Ahead(t.Context(), 0, tmpfs.MaxAhead)
	if err != nil {
		t.Fatal(err)
	}
	if c.tmpfs, err = tmpfs.Open(c.pid, []int{c.pid}, c.own); err != nil {
		t.Fatal(err)
	}
	if filled {
		tmpfs.TakeOver(c.tmpfs, c.tmpfsAhead)
		c.tmpfsAhead = nil
	}
	path := filepath.Join("/proc", strconv.Itoa(c.pid), "root", dir, "file")
	if err := os.WriteFile(path, []byte("after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.saveTmpfs(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, whole := os.Stat(tmpfsRecords(c.images, 0))
	_, changes := os.Stat(tmpfsChanges(c.images))
	if (whole == nil) == filled || (changes == nil) != filled {
		t.Errorf("filled is %v; all of it: %v, changes: %v", filled, whole, changes)
	}
	a := newArrival()
	a.own = c.own
	if filled {
		a.holds = content
	}
	attempt := newAttempt(1, nil)
	if attempt.tmpfs, err = a.makeTmpfs(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if err := attempt.fillTmpfs(c.images); err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	if err := tmpfs.Attach(int(attempt.tmpfs[0].File().Fd()), at); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(at, "file")); string(got) != "after\n" {
		t.Errorf("filled is %v: there is %q, %v", filled, got, err)
	}
	_ = unix.Unmount(at, unix.MNT_DETACH)
	c.closeTmpfs()
	attempt.release()
}
