package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// suite is the Debian release of nodes and images: the first whose containerd, runc and CRIU are recent enough.
const suite = "forky"

// EnvMirror names the Debian mirror; without it, the one that the machine's apt uses is taken.
const EnvMirror = "GODWIT_LAB_MIRROR"

// nodePackages are what a node has besides Debian's minimal system.
var nodePackages = []string{
	"ca-certificates", "containerd", "containernetworking-plugins", "criu", "crun", "gzip", "iproute2", "iptables", "iputils-ping",
	"nftables", "procps", "python3-minimal", "runc", "strace", "tar",
}

// packageName is Debian policy's (5.6.1), with an optional architecture or version.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?$`)

// nodeRoot returns the root file system that all nodes share read-only, making it the first time.
func (l *Lab) nodeRoot(ctx context.Context) (string, error) {
	return l.debianRoot(ctx, nodePackages)
}

// debianRoot returns a root file system with packages in the cache, making it if it is not there: Debian's minimal system,
// also cached, copied, and the packages installed by its own apt.
func (l *Lab) debianRoot(ctx context.Context, packages []string) (string, error) {
	dir := filepath.Join(l.cache, "roots", rootKey(packages))
	if isDir(dir) {
		return dir, nil
	}
	// One at a time: they share the directory of downloaded packages.
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "debian"))
	if err != nil {
		return "", err
	}
	defer release()
	base := filepath.Join(l.cache, "roots", rootKey(nil))
	if !isDir(base) {
		l.log.Info("making Debian's minimal system, once", "suite", suite)
		if err := atomicDir(base, func(tmp string) error { return debootstrap(ctx, tmp) }); err != nil {
			return "", err
		}
	}
	if !isDir(dir) {
		l.log.Info("installing Debian packages, once", "packages", strings.Join(packages, ","))
		err := atomicDir(dir, func(tmp string) error { return l.installInto(ctx, base, tmp, packages) })
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

// rootKey names a cached root: the same for the same packages in any order, another when the way it is made changes.
func rootKey(packages []string) string {
	sorted := slices.Compact(slices.Sorted(slices.Values(packages)))
	sum := sha256.Sum256([]byte("1 " + suite + " " + runtime.GOARCH + " " + strings.Join(sorted, ",")))
	return suite + "-" + hex.EncodeToString(sum[:6])
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// atomicDir makes dir by letting fill a temporary one beside it and renaming that: dir is whole or not there. The caller
// holds a lock, so a temporary directory that exists is one whose maker was killed.
func atomicDir(dir string, fill func(tmp string) error) error {
	tmp := dir + ".tmp"
	if err := removeTree(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return errors.Join(err, removeTree(tmp))
	}
	// A machine that loses power soon after must not find half of it under the final name.
	if d, err := os.Open(tmp); err == nil {
		_ = unix.Syncfs(int(d.Fd()))
		d.Close()
	}
	return os.Rename(tmp, dir)
}

func debootstrap(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return fmt.Errorf("debootstrap is not installed; run godwit-lab setup: %w", err)
	}
	mirror, err := debianMirror(ctx)
	if err != nil {
		return err
	}
	args := []string{"debootstrap", "--variant=minbase"}
	if strings.HasPrefix(mirror, "https:") {
		args = append(args, "--include=ca-certificates")
	}
	// The script is named because an older debootstrap does not know the suite; all later ones use sid's.
	args = append(args, suite, dir, mirror, "/usr/share/debootstrap/scripts/sid")
	return isolated(ctx, dir, `exec "$@"`, args...)
}

// installScript runs in a mount and PID namespace of its own, with the root in $1 and the downloaded packages in $2: what it
// mounts and starts ends with it. Services must not start, and the apt of the new root uses the host's way to the mirror,
// which may be a snapshot of a testing release, older than the days that its signature promises.
const installScript = `set -e
root=$1 debs=$2; shift 2
mount -t proc proc "$root/proc"
mount --bind "$debs" "$root/var/cache/apt/archives"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cp /etc/resolv.conf "$root/etc/resolv.conf"
apt-config dump | grep -i '^Acquire::http' >"$root/etc/apt/apt.conf.d/99host" || true
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
apt="chroot $root apt-get -q -y -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root -o APT::Install-Recommends=false -o APT::Keep-Downloaded-Packages=true -o Dpkg::Options::=--force-unsafe-io"
$apt update
$apt install "$@"
rm -rf "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" "$root/etc/apt/apt.conf.d/99host" "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin
`

func (l *Lab) installInto(ctx context.Context, base, dir string, packages []string) error {
	for _, p := range packages {
		if !packageName.MatchString(p) {
			return fmt.Errorf("package %q: not a name of a Debian package", p)
		}
	}
	debs := filepath.Join(l.cache, "debs")
	if err := os.MkdirAll(filepath.Join(debs, "partial"), 0o755); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", base+"/.", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("copy the minimal system: %w: %s", err, tail(out))
	}
	if len(packages) == 0 {
		return nil
	}
	return isolated(ctx, dir, installScript, append([]string{dir, debs}, packages...)...)
}

// isolated runs a shell script in mount and PID namespaces of its own: it leaves no mount and no process, also if it is
// killed, or we are.
func isolated(ctx context.Context, dir, script string, args ...string) error {
	// The death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "debootstrap", "debootstrap.log"))
		return fmt.Errorf("make a Debian root: %w: %s", err, tail(append(out, log...)))
	}
	return nil
}

func tail(out []byte) string {
	s := strings.TrimSpace(string(out))
	return s[max(0, len(s)-3000):]
}

// debianMirror is the mirror that this machine's apt takes Debian from: not the security archive, which has no such suite.
func debianMirror(ctx context.Context) (string, error) {
	if m := os.Getenv(EnvMirror); m != "" {
		return m, nil
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(SITE)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("the machine's Debian mirror: apt-get indextargets: %w; name one with %s", err, EnvMirror)
	}
	if m := chooseMirror(string(out)); m != "" {
		return m, nil
	}
	return "", fmt.Errorf("the machine's apt knows no Debian archive; name a mirror with %s", EnvMirror)
}

// chooseMirror takes from lines of "URI component site" the first that looks like the main Debian archive: its path ends
// in debian, wherever it is mirrored.
func chooseMirror(lines string) string {
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1] != "main" {
			continue
		}
		if uri := strings.TrimRight(f[0], "/"); strings.HasSuffix(uri, "/debian") {
			return uri
		}
	}
	return ""
}

// Setup installs what a bare Debian lacks for a lab, and makes what can be cached, so that a later Up takes seconds.
func Setup(ctx context.Context, o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("setup needs root")
	}
	lo, err := newLayout(o.Dir)
	if err != nil {
		return err
	}
	l := &Lab{layout: lo, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if err := l.installTools(ctx); err != nil {
		return err
	}
	if _, err := l.nodeRoot(ctx); err != nil {
		return err
	}
	if _, err := l.pauseImage(ctx); err != nil || !o.Kubernetes {
		return err
	}
	if _, err := l.kubernetesBin(ctx); err != nil {
		return err
	}
	_, err = l.attacherBin(ctx)
	return err
}

// tools are the programs that a lab runs on the host, with the Debian package of each.
var tools = map[string]string{
	"debootstrap": "debootstrap", "nsenter": "util-linux", "unshare": "util-linux", "cc": "gcc", "cp": "coreutils", "mke2fs": "e2fsprogs",
}

func (l *Lab) installTools(ctx context.Context) error {
	missing := map[string]bool{}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing[pkg] = true
		}
	}
	if _, err := os.Stat("/usr/share/keyrings/debian-archive-keyring.gpg"); errors.Is(err, fs.ErrNotExist) {
		missing["debian-archive-keyring"] = true
	}
	if missing["gcc"] {
		missing["libc6-dev"] = true
	}
	return aptInstall(ctx, sortedKeys(missing), l.log)
}

// aptInstall installs packages on this machine; none is as good.
func aptInstall(ctx context.Context, packages []string, log *slog.Logger) error {
	if len(packages) == 0 {
		return nil
	}
	log.Info("installing on this machine", "packages", strings.Join(packages, ","))
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w: %s", args[0], err, tail(out))
		}
	}
	return nil
}
