package lab

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClusterNodeImageIsBaked puts Godwit into a Debian root file system, as one does for node images, and takes it out again.
func TestClusterNodeImageIsBaked(t *testing.T) {
	o := newTestCluster(t) // for its conditions: the project is built, and it is root that asks
	lo, err := newLayout(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	debian, err := (&Lab{layout: lo, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}).nodeRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := overlayOf(t, debian)
	before := rootFiles(t, root)
	bake := func(args ...string) {
		t.Helper()
		script := filepath.Join(filepath.Dir(filepath.Dir(testDir(t))), "contrib", "image", "bake.sh")
		if out, err := exec.Command(script, append([]string{root, o.Bin}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	inside := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("chroot", append([]string{root}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		return string(out)
	}

	bake()
	if dump := inside("containerd", "config", "dump"); !strings.Contains(dump, "'io.containerd.godwit.v2'") {
		t.Errorf("containerd does not know the runtime: %s", dump)
	}
	inside("godwitctl", "version")
	baked := rootFiles(t, root)
	bake()
	if d := difference(baked, rootFiles(t, root)); d != "" {
		t.Errorf("a second time it changes:\n%s", d)
	}
	inside("godwit-node", "uninstall", "--offline", "--owner", "image")
	if d := difference(before, rootFiles(t, root)); d != "" {
		t.Errorf("it is not as it was:\n%s", d)
	}
}

// overlayOf is a root file system that may be written to.
func overlayOf(t *testing.T, lower string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "lab-bake-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir="+lower+",upperdir="+filepath.Join(dir, "upper")+",workdir="+filepath.Join(dir, "work")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	return root
}

func rootFiles(t *testing.T, root string) string {
	t.Helper()
	out, err := exec.Command("find", root, "-xdev", "-printf", `%P %y %m %s %l\n`).Output()
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(root, "etc/containerd/config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	// Sizes of directories are the file system's matter.
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == "d" {
			line = strings.Join(f[:3], " ") + "\n"
		}
		b.WriteString(line)
	}
	return b.String() + string(config)
}
