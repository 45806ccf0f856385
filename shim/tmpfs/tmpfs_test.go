package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	nodeMounts = `24 1 0:22 / / rw - overlay overlay rw
30 24 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=1000k,mode=755
31 24 0:60 / /var/lib/volume rw - tmpfs tmpfs rw
`
	containerMounts = `700 600 0:70 / / rw,relatime - overlay overlay rw
701 700 0:71 / /proc rw,nosuid - proc proc rw
702 700 0:72 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
703 702 0:73 / /dev/pts rw,nosuid - devpts devpts rw,gid=5
704 702 0:60 / /dev/shm rw - tmpfs tmpfs rw
705 700 0:74 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755
706 701 0:75 / /proc/acpi ro,relatime - tmpfs tmpfs ro
707 701 0:72 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
708 700 0:76 / /twice rw - tmpfs tmpfs rw
709 700 0:76 / /again rw - tmpfs tmpfs rw
710 700 0:77 / /under rw - tmpfs tmpfs rw
711 700 0:78 / /under rw - tmpfs tmpfs rw
712 700 0:79 / /shared rw shared:4 - tmpfs tmpfs rw
713 700 0:80 / /a\040b rw - tmpfs tmpfs rw
714 700 0:81 / /policy rw - tmpfs tmpfs rw,mpol=bind:0
715 701 0:82 / /proc/scsi ro,relatime - tmpfs tmpfs ro,size=4k,nr_inodes=1
716 700 0:82 / /sys/firmware ro,relatime - tmpfs tmpfs ro,size=4k,nr_inodes=1
717 700 0:83 / /empty rw - tmpfs tmpfs rw,nr_inodes=1
718 700 0:83 / /too rw - tmpfs tmpfs rw,nr_inodes=1
`
)

func TestAContainersOwnMountsAreFound(t *testing.T) {
	var got []string
	for _, m := range own(containerMounts, nodeMounts) {
		got = append(got, m.Path+" "+m.Device)
	}
	if want := []string{"/dev 0:72", "/sys/fs/cgroup 0:74", "/proc/acpi 0:75", "/proc/scsi 0:82", "/sys/firmware 0:82"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestAListComesBackAsItWas(t *testing.T) {
	mounts := own(containerMounts, nodeMounts)
	text, err := Encode(mounts)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(text)
	if err != nil || len(back) != len(mounts) {
		t.Fatalf("%v, %v", back, err)
	}
	for i, m := range back {
		if m.Path != mounts[i].Path || !slices.Equal(m.Options, mounts[i].Options) || m.Device != "" {
			t.Errorf("%+v, want %+v", m, mounts[i])
		}
	}
}

func TestAPeersListIsNotTrusted(t *testing.T) {
	for name, list := range map[string]string{
		"no list":          `{}`,
		"no path":          `[{"path":""}]`,
		"the root":         `[{"path":"/"}]`,
		"a path to quote":  `[{"path":"/a]:b"}]`,
		"a path upwards":   `[{"path":"/a/../b"}]`,
		"an option":        `[{"path":"/a","options":["source=/etc"]}]`,
		"an option's form": `[{"path":"/a","options":["size=1m,mode=1"]}]`,
		"a missing value":  `[{"path":"/a","options":["size"]}]`,
		"too many":         `[` + strings.TrimSuffix(strings.Repeat(`{"path":"/a"},`, MaxMounts+1), ",") + `]`,
		"too long":         strings.Repeat(" ", maxList) + `[]`,
	} {
		if _, err := Decode(list); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fill makes in a directory some of what a container may have in its /dev.
func fill(t *testing.T, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(p("fifo"), unix.S_IFIFO|0o640, 0),
		os.Symlink("/proc/self/fd", p("fd")),
		os.MkdirAll(p("pts"), 0o755),
		os.MkdirAll(p("shm/below"), 0o711),
		os.WriteFile(p("shm/below/file"), []byte(strings.Repeat("text", 100_000)), 0o600),
		os.Link(p("shm/below/file"), p("link")),
		os.Chown(p("fifo"), 1234, 56),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// describe is what a tree looks like.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case info.Mode()&os.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		name, _ := filepath.Rel(dir, path)
		out = append(out, fmt.Sprint(name, info.Mode(), info.ModTime(), st.Rdev, st.Uid, st.Gid, st.Nlink, content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mounted mounts a Target for the time of the test.
func mounted(t *testing.T, target *Target) string {
	t.Helper()
	dir := t.TempDir()
	if err := Attach(int(target.File().Fd()), dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs to mount")
	}
}

func TestWhatIsSavedIsFilledIn(t *testing.T) {
	needRoot(t)
	first, err := Mount{Path: "/dev", Options: []string{"rw", "size=65536k", "mode=755", "inode64"}}.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll([]*Target{first})
	dir := mounted(t, first)
	fill(t, dir)
	file := filepath.Join(t.TempDir(), "records")
	if err := (&Source{Mount: first.Mount, tree: first.mount}).Save(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{false, true} {
		m := first.Mount
		if ro {
			m.Options = []string{"ro", "mode=700"}
		}
		second, err := m.Make()
		if err != nil {
			t.Fatal(err)
		}
		defer CloseAll([]*Target{second})
		there := mounted(t, second)
		if err := second.Fill(file); err != nil {
			t.Fatal(err)
		}
		want, got := describe(t, dir), describe(t, there)
		if !slices.Equal(want, got) {
			t.Errorf("read-only %v: there is\n%.2000q\nwant\n%.2000q", ro, got, want)
		}
		err = os.WriteFile(filepath.Join(there, "new"), nil, 0o600)
		if ro != errors.Is(err, unix.EROFS) {
			t.Errorf("read-only %v: a file is made with %v", ro, err)
		}
	}
}

// One file system that masks several directories is one for each at the destination: they hold nothing.
func TestWhatMasksSeveralDirectoriesIsFilledIn(t *testing.T) {
	needRoot(t)
	mask := Mount{Path: "/sys/firmware", Options: []string{"ro", "size=4k", "nr_inodes=1"}}
	first, err := mask.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll([]*Target{first})
	dir := mounted(t, first)
	if err := errors.Join(os.Chmod(dir, 0o511), os.Chown(dir, 0, 7)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "records")
	if err := (&Source{Mount: mask, tree: first.mount}).Save(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/sys/firmware", "/proc/scsi"} {
		mask.Path = path
		second, err := mask.Make()
		if err != nil {
			t.Fatal(err)
		}
		defer CloseAll([]*Target{second})
		there := mounted(t, second)
		if err := second.Fill(file); err != nil {
			t.Fatal(err)
		}
		if want, got := describe(t, dir), describe(t, there); !slices.Equal(want, got) {
			t.Errorf("%s: there is %q, want %q", path, got, want)
		}
		if err := os.WriteFile(filepath.Join(there, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: a file is made with %v", path, err)
		}
	}
}

func TestARecordOfAnotherTreeIsRefused(t *testing.T) {
	needRoot(t)
	target, err := Mount{Path: "/dev"}.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer CloseAll([]*Target{target})
	file := filepath.Join(t.TempDir(), "records")
	if err := os.WriteFile(file, []byte("no records"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := target.Fill(file); err == nil {
		t.Error("it was filled with what is no record")
	}
	if err := target.Fill(file + "2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without records: %v", err)
	}
}
