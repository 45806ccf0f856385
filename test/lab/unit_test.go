package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func TestParseRate(t *testing.T) {
	for in, want := range map[string]uint64{
		"1gbit": 1e9, "1Gbit": 1e9, "500mbit": 5e8, "2.5gbit": 2.5e9, " 64kbit ": 64000, "1000bit": 1000, "1tbit": 1e12,
		"": 0, "gbit": 0, "-1gbit": 0, "1": 0, "1gb": 0, "nangbit": 0, "infgbit": 0, "1e30bit": 0, "999bit": 0,
	} {
		got, err := ParseRate(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseRate(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"1gbit", "0.1mbit", "kbit", "1e9bit", "0x1p9kbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if rate, err := ParseRate(s); err == nil && (rate < 999 || rate > 1e12) {
			t.Errorf("ParseRate(%q) = %d, out of its bounds", s, rate)
		}
	})
}

func TestRulesOfALinkHoldOnlyWhatWasAsked(t *testing.T) {
	tests := []struct {
		shape      Shape
		netem      bool
		want, miss []string
	}{
		{Shape{}, true, nil, []string{"qdisc"}},
		{Shape{Delay: time.Millisecond}, false, nil, []string{"qdisc"}}, // the delay line's
		{Shape{Delay: time.Millisecond}, true, []string{"netem delay 1000us", "rate 100000000000bit"}, []string{"bfifo"}},
		{Shape{Rate: 1e9}, false, []string{"rate 1000000000bit", "bfifo", "match ip dst 10.88.0.1/32 flowid 1:20"}, []string{"netem"}},
		{Shape{Rate: 1e9, Delay: time.Millisecond}, true, []string{"rate 1000000000bit", "netem delay 1000us"}, nil},
	}
	for _, tt := range tests {
		got := tcScript(tt.shape, "10.88.0.1", tt.netem)
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%+v, netem %v: no %q in\n%s", tt.shape, tt.netem, w, got)
			}
		}
		for _, m := range tt.miss {
			if strings.Contains(got, m) {
				t.Errorf("%+v, netem %v: %q in\n%s", tt.shape, tt.netem, m, got)
			}
		}
	}
}

func TestLabsOfDifferentDirectoriesDoNotMeet(t *testing.T) {
	t.Setenv(EnvDir, "")
	def, err := newLayout("")
	if err != nil {
		t.Fatal(err)
	}
	one, err := newLayout("/srv/one")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvDir, "/srv/two")
	two, err := newLayout("")
	if err != nil {
		t.Fatal(err)
	}
	for i, pair := range [][2]layout{{def, one}, {one, two}, {def, two}} {
		a, b := pair[0], pair[1]
		if a.state == b.state || a.data == b.data || a.linkPrefix() == b.linkPrefix() || a.cgroup() == b.cgroup() ||
			a.lockFile() == b.lockFile() || a.management().Overlaps(b.management()) {
			t.Errorf("pair %d: %+v and %+v", i, a, b)
		}
		if a.cache != b.cache {
			t.Errorf("pair %d does not share the cache", i)
		}
	}
	for _, l := range []layout{def, one, two} {
		if n := len(l.hostLink(MaxNodes)); n >= unix.IFNAMSIZ {
			t.Errorf("link name of %d characters", n)
		}
		if !l.management().Contains(l.nodeAddr(MaxNodes-1)) || l.management().Overlaps(l.podSubnet(MaxNodes-1)) {
			t.Errorf("addresses of the last node: %s, %s", l.nodeAddr(MaxNodes-1), l.podSubnet(MaxNodes-1))
		}
	}
	if _, err := newLayout("/"); err == nil {
		t.Error("/ may be a lab")
	}
}

func TestNodesHaveNamesOfTheirOwn(t *testing.T) {
	names := defaultNames(MaxNodes)
	if !slices.Equal(names[:3], []string{"a", "b", "c"}) || names[26] != "a2" {
		t.Errorf("names %v", names[:30])
	}
	if got := len(slices.Compact(slices.Sorted(slices.Values(names)))); got != MaxNodes {
		t.Errorf("%d different names of %d", got, MaxNodes)
	}
	for _, name := range names {
		if !nodeName.MatchString(name) {
			t.Errorf("%q is no node name", name)
		}
	}
	for _, bad := range []string{"", "A", "../x", "a/b", "a.b", "1a", strings.Repeat("a", 40)} {
		if nodeName.MatchString(bad) {
			t.Errorf("%q is a node name", bad)
		}
	}
}

func TestParseHierarchy(t *testing.T) {
	tests := []struct {
		line string
		want hierarchy
		ok   bool
	}{
		{"36 35 0:31 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory", hierarchy{mount: "/sys/fs/cgroup/memory", options: "memory"}, true},
		{"36 35 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct", hierarchy{mount: "/sys/fs/cgroup/cpu,cpuacct", options: "cpu,cpuacct"}, true},
		{"36 35 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd", hierarchy{mount: "/sys/fs/cgroup/systemd", options: "none,name=systemd"}, true},
		{"36 35 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", hierarchy{mount: "/sys/fs/cgroup", v2: true}, true},
		{"36 35 0:31 / /mnt/other rw - cgroup2 cgroup2 rw", hierarchy{}, false},
		{"36 35 0:31 / /sys/fs/cgroup rw - tmpfs tmpfs rw", hierarchy{}, false},
		{"", hierarchy{}, false},
		{" - ", hierarchy{}, false},
	}
	for _, tt := range tests {
		if got, ok := parseHierarchy(tt.line); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %+v %v, want %+v %v", tt.line, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0"))
	f.Add([]byte("1 (a) b) (c) R 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0"))
	f.Add([]byte(") "))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) }) // does not panic
}

func TestStatTellsAProcessFromALaterOneOfItsNumber(t *testing.T) {
	if state, ticks, err := parseStat([]byte("1 (a) b) (c) R 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0")); err != nil || state != 'R' || ticks != 42 {
		t.Errorf("state %c, ticks %d, %v", state, ticks, err)
	}
	_, ticks, err := stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !sameProcess(os.Getpid(), ticks) || sameProcess(os.Getpid(), ticks+1) || sameProcess(0, 0) {
		t.Error("this process is not recognised")
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, ticks, err = stat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	awaitEnd(cmd.Process.Pid, 10*time.Second)
	if sameProcess(cmd.Process.Pid, ticks) {
		t.Error("a zombie counts as running")
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestMirrorIsTheMachinesMainArchive(t *testing.T) {
	for lines, want := range map[string]string{
		"http://m/debian-security/ main m\nhttp://m/debian/ main m\n": "http://m/debian",
		"https://deb.nodejs.example/ main x\n":                        "",
		"http://m/debian/ contrib m\nhttp://n/sub/debian main m":      "http://n/sub/debian",
		"": "",
	} {
		if got := chooseMirror(lines); got != want {
			t.Errorf("of %q: %q, want %q", lines, got, want)
		}
	}
}

func TestCachedRootIsNamedByItsPackages(t *testing.T) {
	if rootKey([]string{"b", "a", "a"}) != rootKey([]string{"a", "b"}) {
		t.Error("the order of packages makes another root")
	}
	if rootKey([]string{"a"}) == rootKey([]string{"b"}) || rootKey(nil) == rootKey([]string{"a"}) {
		t.Error("different packages make the same root")
	}
	for _, p := range []string{"redis-server", "libc6:amd64", "g++", "redis=5:8.0-1"} {
		if !packageName.MatchString(p) {
			t.Errorf("%q is refused", p)
		}
	}
	for _, p := range []string{"", "-o", "a;b", "../x", "A b", "--reinstall"} {
		if packageName.MatchString(p) {
			t.Errorf("%q is taken", p)
		}
	}
}

func TestDirectoryIsWholeOrNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	if err := os.MkdirAll(filepath.Join(dir+".tmp", "left"), 0o755); err != nil { // by one that was killed
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := atomicDir(dir, func(tmp string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if isDir(dir) || isDir(dir+".tmp") {
		t.Error("something is left of a failure")
	}
	if err := atomicDir(dir, func(tmp string) error { return os.WriteFile(filepath.Join(tmp, "file"), nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("entries %v, %v", entries, err)
	}
}

func TestLockIsHeldByOneAndWaitingEndsWithTheContext(t *testing.T) {
	file := filepath.Join(t.TempDir(), "locks", "lock")
	release, err := flock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := flock(ctx, file); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second holder: %v", err)
	}
	release()
	again, err := flock(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestImageRef(t *testing.T) {
	for in, want := range map[string]string{
		"redis": "localhost/redis:latest", "redis:8": "localhost/redis:8", "localhost/pause:1": "localhost/pause:1",
		"reg:5000/a/b": "reg:5000/a/b:latest", "reg/a@sha256:00": "reg/a@sha256:00",
	} {
		if got := ImageRef(in); got != want {
			t.Errorf("ImageRef(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestContainersOfAPodHaveDifferentNames(t *testing.T) {
	spec := PodSpec{Containers: []ContainerSpec{{Image: "redis"}, {Image: "localhost/redis:8"}, {Image: "nginx"}, {Image: "redis", Name: "third"}, {Image: "redis"}}}
	var names []string
	for i := range spec.Containers {
		names = append(names, spec.containerName(i))
	}
	if want := []string{"redis", "redis-2", "nginx", "third", "redis-3"}; !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
}

// TestArchiveHoldsTheTreeAsItIs packs a tree and reads the image back as a runtime would.
func TestArchiveHoldsTheTreeAsItIs(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"bin", "tmp", "var/log", "usr/share/doc/x"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"bin/tool": 0o755, "secret": 0o600, "var/log/old": 0o644, "usr/share/doc/x/readme": 0o644} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("content of "+name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(root, "tmp"), 0o777|fs.ModeSticky), os.Symlink("tool", filepath.Join(root, "bin/link")),
		os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/twin"))); err != nil {
		t.Fatal(err)
	}
	withXattr := unix.Setxattr(filepath.Join(root, "secret"), "user.test", []byte("value"), 0) == nil

	made, err := writeLayer(t.Context(), filepath.Join(t.TempDir(), "layer.tar"), root, unneeded)
	if err != nil {
		t.Fatal(err)
	}
	r := imageRecord{Ref: "localhost/x:1", Layer: made, Config: ocispec.ImageConfig{Entrypoint: []string{"/bin/tool"}, User: "7"}}
	archive, id, err := r.archive()
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := untar(t, archive)
	var index ocispec.Index
	var manifest ocispec.Manifest
	var config ocispec.Image
	decode(t, files["index.json"], &index)
	decode(t, files["blobs/sha256/"+index.Manifests[0].Digest.Encoded()], &manifest)
	decode(t, files["blobs/sha256/"+manifest.Config.Digest.Encoded()], &config)
	if index.Manifests[0].Annotations["io.containerd.image.name"] != r.Ref || manifest.Config.Digest.String() != id || config.Config.User != "7" {
		t.Errorf("index %+v, id %s, config %+v", index, id, config)
	}
	content := files["blobs/sha256/"+manifest.Layers[0].Digest.Encoded()]
	if int64(len(content)) != manifest.Layers[0].Size || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Error("the layer is not as described")
	}
	var got []string
	tr := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname))
		if h.Name == "secret" && withXattr && h.PAXRecords["SCHILY.xattr.user.test"] != "value" {
			t.Errorf("extended attributes %v", h.PAXRecords)
		}
	}
	want := []string{
		"drwxr-xr-x bin/", "Lrwxrwxrwx bin/link tool", "-rwxr-xr-x bin/tool", "-rwxr-xr-x bin/twin bin/tool", "-rw------- secret",
		"dtrwxrwxrwx tmp/", "drwxr-xr-x usr/", "drwxr-xr-x usr/share/", "drwxr-xr-x var/", "drwxr-xr-x var/log/",
	}
	if !slices.Equal(got, want) {
		t.Errorf("layer\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}
