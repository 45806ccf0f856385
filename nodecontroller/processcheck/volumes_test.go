package processcheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// lockedFile is an open file of this process, as the kernel tells of it while it is locked so.
func lockedFile(t *testing.T, lock func(fd int) error) (File, map[int]Mount) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := lock(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	s, err := Gather(t.Context(), []Container{{Name: "web", PID: os.Getpid()}})
	if err != nil {
		t.Fatal(err)
	}
	p := s.Containers[0].Processes[0]
	for _, file := range p.Files {
		if file.Link == f.Name() {
			return file, p.Mounts
		}
	}
	t.Fatalf("%s is not among %+v", f.Name(), p.Files)
	return File{}, nil
}

func TestALockOfAFileThatBothNodesSeeIsRefused(t *testing.T) {
	posix := unix.Flock_t{Type: unix.F_WRLCK}
	locks := map[string]func(int) error{
		"none":  func(int) error { return nil },
		"read":  func(fd int) error { return unix.Flock(fd, unix.LOCK_SH) },
		"flock": func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) },
		"posix": func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &posix) },
		"ofd":   func(fd int) error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &posix) },
	}
	for name, lock := range locks {
		t.Run(name, func(t *testing.T) {
			file, mounts := lockedFile(t, lock)
			storage := []string{"/elsewhere", mounts[file.Mount].Point}
			for _, c := range []struct {
				storage     []string
				sourceFirst bool
				refused     bool
			}{
				{storage, false, name != "none" && name != "read"},
				{storage, true, false},         // it is released when the source ends
				{[]string{"/x"}, false, false}, // a file of the pod's own, which is copied
			} {
				s := &Snapshot{SourceFirst: c.sourceFirst, Containers: []ContainerState{{
					Name: "web", Storage: c.storage, Processes: []Process{{PID: 7, PIDInside: 1, Name: "sh", Files: []File{file}, Mounts: mounts}},
				}}}
				said := obstacle.List(obstacle.Refusals(Judge(s)))
				if refused := strings.Contains(said, "container web, process 7 (sh) holds a lock of "+file.Link); refused != c.refused {
					t.Errorf("storage %v, source first %t: %q", c.storage, c.sourceFirst, said)
				}
			}
		})
	}
}

func TestLocksOfAFrozenPodAreFoundOfFilesThatBothNodesSee(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, mounts := lockedFile(t, func(int) error { return nil })
	var all []string
	for _, m := range mounts {
		all = append(all, m.Point)
	}
	find := func(storage ...string) string {
		found, err := Locks(t.Context(), []Container{{Name: "web", PID: os.Getpid(), Storage: storage}})
		if err != nil {
			t.Fatal(err)
		}
		return obstacle.List(found)
	}
	want := "holds a lock of " + f.Name()
	if said := find(all...); strings.Contains(said, want) {
		t.Errorf("without a lock: %q", said)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if said := find(all...); !strings.Contains(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
	for _, storage := range [][]string{nil, {"/elsewhere"}} {
		if said := find(storage...); said != "" {
			t.Errorf("with storage at %v: %q", storage, said)
		}
	}
}

func TestFilesThatTheDestinationHasUnderAnotherNameAreRefused(t *testing.T) {
	const dir = "/config/..2026_11_28_20_27_42.1234567890"
	mounts := map[int]Mount{1: {Point: "/"}}
	open := func(path string) Process {
		return Process{Dir: "/", Files: []File{{FD: 6, Link: path, Type: unix.S_IFREG, Mount: 1}}}
	}
	for name, c := range map[string]struct {
		process Process
		want    string // empty for none
	}{
		"a file":                     {open(dir + "/greeting"), "has " + dir + "/greeting open (descriptor 6)"},
		"a file below":               {open(dir + "/a/b"), "has " + dir + "/a/b open (descriptor 6)"},
		"the directory":              {Process{Dir: "/", Files: []File{{FD: 6, Link: dir, Type: unix.S_IFDIR, Mount: 1}}}, "has " + dir + " open (descriptor 6)"},
		"the working directory":      {Process{Dir: dir}, "works in " + dir},
		"a mapped file":              {Process{Dir: "/", Areas: []Area{{Path: dir + "/lib.so"}}}, "has " + dir + "/lib.so mapped"},
		"a file of a sub-path mount": {open("/config/greeting"), ""},
		"a name that is nearly so":   {open("/data/..2026_11_28/greeting"), ""},
	} {
		c.process.PID, c.process.PIDInside, c.process.Name, c.process.Mounts = 7, 1, "sh", mounts
		said := obstacle.List(obstacle.Refusals(Judge(&Snapshot{Containers: []ContainerState{{Name: "web", Processes: []Process{c.process}}}})))
		if (c.want == "") != (said == "") || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, want %q", name, said, c.want)
		}
	}
}
