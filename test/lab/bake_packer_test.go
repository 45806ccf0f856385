package lab

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/pace"
)

// packerMachine is what a disk has for Packer to begin with: a kernel, and a login over the network. containerd, runc and CRIU are the
// template's to install.
var packerMachine = []string{"ca-certificates", "e2fsprogs", "initramfs-tools", "kmod", "linux-image-cloud-amd64", "openssh-server", "systemd-sysv", "udev"}

// packerLogin lets root in by a password, over an address that the emulator's network gives. The release is one in the making, whose lists
// may be older than they promise to be.
const packerLogin = `set -e
echo root:packer | chpasswd
echo 'PermitRootLogin yes' >/etc/ssh/sshd_config.d/packer.conf
printf '[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n' >/etc/systemd/network/wired.network
systemctl enable systemd-networkd ssh
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/99lab
`

// TestClusterNodeImageIsBuiltByPacker has Packer make a node image of a Debian disk by contrib's template. Packer is not Debian's, nor free
// any more: where it is not installed, with its qemu plugin, the test is skipped. Without KVM it takes some minutes.
func TestClusterNodeImageIsBuiltByPacker(t *testing.T) {
	o := newTestCluster(t) // for its conditions
	packer, err := exec.LookPath("packer")
	if err != nil {
		t.Skip("no packer here")
	}
	if out, err := exec.Command(packer, "plugins", "installed").Output(); err != nil || !strings.Contains(string(out), "hashicorp/qemu") {
		t.Skipf("packer has no qemu plugin: %v", err)
	}
	lo, err := newLayout(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{layout: lo, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if err := InstallTools(t.Context(), map[string]string{"qemu-img": "qemu-utils", "debugfs": "e2fsprogs"}, l.log); err != nil {
		t.Fatal(err)
	}
	emulator, err := l.debianRoot(t.Context(), []string{"qemu-system-x86"})
	if err != nil {
		t.Fatal(err)
	}
	m := newPackerMachine(t, l, emulator)
	m.build(t, packer, o.Bin)
	for _, file := range []string{
		"/usr/sbin/criu", "/usr/local/bin/godwit-node", "/usr/local/bin/containerd-shim-godwit-v2", "/usr/local/bin/godwitctl", "/etc/containerd/conf.d/godwit.toml",
	} {
		if out := m.debugfs(t, "stat "+file); !strings.Contains(out, "Type: regular") {
			t.Errorf("the image has no %s: %s", file, out)
		}
	}
	if out := m.debugfs(t, "cat /etc/containerd/conf.d/godwit.toml"); !strings.Contains(out, "io.containerd.godwit.v2") {
		t.Errorf("the drop-in is %q", out)
	}
	if out := m.debugfs(t, "ls /tmp"); strings.Contains(out, "godwit") {
		t.Errorf("the build left something: %s", out)
	}
}

// packerDisk is a disk without a boot loader, the kernel with which it is booted, and the emulator that does.
type packerDisk struct{ dir, disk, kernel, initrd, qemu string }

func newPackerMachine(t *testing.T, l *Lab, emulator string) packerDisk {
	t.Helper()
	debian, err := l.debianRoot(t.Context(), packerMachine)
	if err != nil {
		t.Fatal(err)
	}
	root := overlayOf(t, debian)
	if out, err := exec.Command("chroot", root, "sh", "-c", packerLogin).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir, err := os.MkdirTemp("/var/tmp", "lab-packer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := packerDisk{dir: dir, disk: filepath.Join(dir, "debian.img"), qemu: filepath.Join(dir, "qemu")}
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-m", "0", "-d", root, m.disk, "4G").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for file, pattern := range map[*string]string{&m.kernel: "vmlinuz-*", &m.initrd: "initrd.img-*"} {
		found, err := filepath.Glob(filepath.Join(debian, "boot", pattern))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s of the disk: %v, %v", pattern, found, err)
		}
		*file = found[0]
	}
	// By its own loader and libraries, which are of another Debian than this one.
	script := "#!/bin/sh\nexec R/lib64/ld-linux-x86-64.so.2 --argv0 qemu-system-x86_64 --library-path R/usr/lib/x86_64-linux-gnu R/usr/bin/qemu-system-x86_64" +
		" -L R/usr/share/qemu -L R/usr/share/seabios \"$@\"\n"
	if err := os.WriteFile(m.qemu, []byte(strings.ReplaceAll(script, "R/", emulator+"/")), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// build runs the template.
func (m packerDisk) build(t *testing.T, packer, bin string) {
	t.Helper()
	// A /dev/kvm alone does not tell: it may be one that emulates, and never gets to the kernel.
	accelerator := "tcg"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil && (strings.Contains(string(info), " vmx ") || strings.Contains(string(info), " svm ")) {
		accelerator = "kvm"
	}
	args := `[["-cpu","max"],["-kernel","` + m.kernel + `"],["-initrd","` + m.initrd + `"],["-append","root=/dev/vda rw console=ttyS0 apparmor=0"]]`
	ctx, cancel := context.WithTimeout(t.Context(), pace.Stretch(20*time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, packer, "build", "-color=false", "-var", "image="+m.disk, "-var", "password=packer", "-var", "bin="+bin,
		"-var", "accelerator="+accelerator, "-var", "qemu="+m.qemu, "-var", "qemuargs="+args, "-var", "output="+filepath.Join(m.dir, "out"), "contrib/image")
	cmd.Dir = filepath.Dir(filepath.Dir(testDir(t)))
	cmd.Env = append(os.Environ(), "CHECKPOINT_DISABLE=1", "PACKER_CACHE_DIR="+filepath.Join(m.dir, "cache"))
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGINT) } // it ends its machine then
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// debugfs asks the file system of the image that was built.
func (m packerDisk) debugfs(t *testing.T, command string) string {
	t.Helper()
	raw := filepath.Join(m.dir, "built.img")
	if _, err := os.Stat(raw); err != nil {
		built, err := filepath.Glob(filepath.Join(m.dir, "out", "*"))
		if err != nil || len(built) != 1 {
			t.Fatalf("Packer made %v, %v", built, err)
		}
		if out, err := exec.Command("qemu-img", "convert", "-O", "raw", built[0], raw).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	out, err := exec.Command("debugfs", "-R", command, raw).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
