package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"godwit.dev/godwit/test/lab"
)

// kernelPackage depends on the newest cloud kernel of a release.
const kernelPackage = "linux-image-cloud-amd64"

// A release is one of Debian's whose cloud kernel can be booted: long-term ones, as nodes in the field have.
type release struct {
	suite string
	// engines are the trackers that its kernel has, as godwitctl names them: the end-to-end tests run with each.
	engines []string
}

var (
	// trixie is Debian 13, Linux 6.12: it has both trackers.
	trixie = release{suite: "trixie", engines: []string{"write-protect", "soft-dirty"}}
	// bookworm is Debian 12, Linux 6.1. Like 5.15 and 6.6 it has soft-dirty bits and no PAGEMAP_SCAN, which came with 6.7.
	bookworm = release{suite: "bookworm", engines: []string{"soft-dirty"}}
)

// releases are those of the flag -kernel.
var releases = []release{trixie, bookworm}

// String is the release's name.
func (r *release) String() string { return r.suite }

// Set takes a release by its name.
func (r *release) Set(name string) error {
	var known []string
	for _, one := range releases {
		if one.suite == name {
			*r = one
			return nil
		}
		known = append(known, one.suite)
	}
	return fmt.Errorf("there is %s", strings.Join(known, " and "))
}

// kernelOptions are what a kernel is booted for, or cannot be booted without.
var kernelOptions = []string{
	"MEM_SOFT_DIRTY", "USERFAULTFD", "HAVE_ARCH_USERFAULTFD_WP", "CHECKPOINT_RESTORE", "CGROUPS", "MEMCG",
}

// unpackOption is what a kernel needs whose modules are compressed: nobody unpacks them for it.
const unpackOption = "MODULE_DECOMPRESS"

// tools are the programs that are run here, with the Debian package of each.
var tools = map[string]string{
	"mke2fs": "e2fsprogs", "cpio": "cpio", "depmod": "kmod", "busybox": "busybox-static",
}

// kernel is a kernel in the cache.
type kernel struct {
	dir     string // vmlinuz, config, and modules/VERSION as depmod leaves it
	suite   string // the release's
	version string
}

func (k kernel) image() string   { return filepath.Join(k.dir, "vmlinuz") }
func (k kernel) modules() string { return filepath.Join(k.dir, "modules") }

// findKernel returns the cached kernel, or fetches it. Remove it from the cache to get the release's newest. The caller
// holds the cache's lock.
func (r release) findKernel(ctx context.Context, cache, root string, log *slog.Logger) (kernel, error) {
	dir := filepath.Join(cache, "kernel-"+r.suite)
	if k, err := openKernel(r.suite, dir); err == nil {
		return k, nil
	}
	log.Info("fetching Debian's cloud kernel, once", "suite", r.suite)
	tmp, err := freshDir(dir + ".tmp")
	if err != nil {
		return kernel{}, err
	}
	defer os.RemoveAll(tmp)
	unpacked, err := r.download(ctx, tmp, root)
	if err != nil {
		return kernel{}, fmt.Errorf("kernel: %w", err)
	}
	if err := pickKernel(ctx, unpacked, filepath.Join(tmp, "kernel")); err != nil {
		return kernel{}, fmt.Errorf("kernel: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return kernel{}, err
	}
	if err := os.Rename(filepath.Join(tmp, "kernel"), dir); err != nil {
		return kernel{}, err
	}
	return openKernel(r.suite, dir)
}

// openKernel finds a kernel in a directory, and sees that it has what it is for.
func openKernel(suite, dir string) (kernel, error) {
	versions, err := filepath.Glob(filepath.Join(dir, "modules", "*"))
	if err != nil || len(versions) != 1 {
		return kernel{}, fmt.Errorf("%s has %d kernels", dir, len(versions))
	}
	config, err := os.ReadFile(filepath.Join(dir, "config"))
	if err != nil {
		return kernel{}, err
	}
	k := kernel{dir: dir, suite: suite, version: filepath.Base(versions[0])}
	options, err := k.options()
	if err != nil {
		return kernel{}, err
	}
	if lacking := lacks(string(config), options); len(lacking) > 0 {
		return kernel{}, fmt.Errorf("kernel %s is without %s: it is not for these tests", k.version, strings.Join(lacking, ", "))
	}
	return k, nil
}

// options are what the kernel must have built in.
func (k kernel) options() ([]string, error) {
	files, err := k.bootFiles()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if filepath.Ext(f) != ".ko" {
			return append(slices.Clone(kernelOptions), unpackOption), nil
		}
	}
	return kernelOptions, nil
}

// bootFiles are the files of the bootModules, in the order in which they are loaded, each once.
func (k kernel) bootFiles() ([]string, error) {
	var files []string
	for _, module := range bootModules {
		needed, err := k.moduleFiles(module)
		if err != nil {
			return nil, err
		}
		for _, f := range needed {
			if !slices.Contains(files, f) {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// lacks lists the options that a kernel's configuration does not have built in.
func lacks(config string, options []string) []string {
	have := map[string]bool{}
	for line := range strings.Lines(config) {
		if name, ok := strings.CutSuffix(strings.TrimSpace(line), "=y"); ok {
			have[strings.TrimPrefix(name, "CONFIG_")] = true
		}
	}
	var lacking []string
	for _, o := range options {
		if !have[o] {
			lacking = append(lacking, o)
		}
	}
	return lacking
}

// kernelDependency is the package of the kernel itself, in what kernelPackage depends on.
var kernelDependency = regexp.MustCompile(`^\s*Depends: (linux-image-[0-9][a-z0-9.+~-]*-cloud-amd64)\s*$`)

// download gets the kernel's package, unpacked.
func (r release) download(ctx context.Context, dir, root string) (unpacked string, err error) {
	a, err := lab.OpenArchive(ctx, dir, r.suite, root)
	if err != nil {
		return "", err
	}
	depends, err := a.Depends(ctx, kernelPackage)
	if err != nil {
		return "", err
	}
	name := ""
	for _, line := range depends {
		if m := kernelDependency.FindStringSubmatch(line); m != nil {
			name = m[1]
		}
	}
	if name == "" {
		return "", fmt.Errorf("package %s of %s depends on no kernel", kernelPackage, r.suite)
	}
	unpacked = filepath.Join(dir, "unpacked")
	return unpacked, a.Unpack(ctx, name, unpacked)
}

// pickKernel makes the directory to, of what is needed of the unpacked package.
func pickKernel(ctx context.Context, unpacked, to string) error {
	// Up to bookworm a kernel's modules are in /lib, later in /usr/lib.
	var versions []string
	for _, lib := range []string{"lib", "usr/lib"} {
		found, err := filepath.Glob(filepath.Join(unpacked, lib, "modules/*"))
		if err != nil {
			return err
		}
		versions = append(versions, found...)
	}
	if len(versions) != 1 {
		return fmt.Errorf("its package has %d kernels", len(versions))
	}
	modules, version := filepath.Split(versions[0])
	base := filepath.Dir(filepath.Dir(filepath.Clean(modules)))
	if _, err := output(exec.CommandContext(ctx, "depmod", "-b", base, version)); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	boot := filepath.Join(unpacked, "boot")
	for from, name := range map[string]string{
		filepath.Join(boot, "vmlinuz-"+version): "vmlinuz", filepath.Join(boot, "config-"+version): "config", filepath.Clean(modules): "modules",
	} {
		if err := os.Rename(from, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// moduleFiles gives the files of a module and of all that it needs, in the order in which they are loaded, relative to the
// directory of the kernel's modules; none for a module that is built in.
func (k kernel) moduleFiles(name string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(k.modules(), k.version, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	return dependencies(string(b), name), nil
}

// dependencies reads a line of modules.dep: a file, a colon, and what it needs, the innermost last.
func dependencies(modulesDep, name string) []string {
	for line := range strings.Lines(modulesDep) {
		file, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
		base, _, _ := strings.Cut(filepath.Base(file), ".")
		if base != name {
			continue
		}
		files := []string{file}
		for _, f := range strings.Fields(needs) {
			files = append([]string{f}, files...)
		}
		return files
	}
	return nil
}

// freshDir makes an empty directory in place of one that a killed run left.
func freshDir(dir string) (string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// output runs a command for what it writes; an error has the end of what it complains about.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		return out, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, said[max(0, len(said)-2000):])
	}
	return out, nil
}
