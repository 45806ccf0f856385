package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/vm/guest"
	"godwit.dev/godwit/test/workload"
)

// debianImages are the sets of packages that the end-to-end tests and the bench make images of: inside there is no mirror.
// A test that wants another fails, and says that debootstrap is missing.
var debianImages = [][]string{{"redis-server"}, {"nginx-light"}, {"python3"}}

// machinePackages are what the machine has that nodes have not: many tests compile the processes that they need.
var machinePackages = []string{"gcc", "libc6-dev"}

// modules are what nodes, containerd and CRIU want of the kernel; on machines udev, or the tools themselves, load them.
var modules = []string{
	"overlay", "veth", "bridge", "tun", "nf_tables", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag",
	"af_packet_diag", "netlink_diag",
}

// bootModules are what the machine needs to have its root file system and to hear what to do, where that is not built in: ext4 asks
// for its checksum by a name that only modprobe would make a module of.
var bootModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4", "overlay"}

// slowEmulated is how many times as long as elsewhere everything takes when the processor is emulated.
const slowEmulated = 10

// prepare makes what is missing, and describes the machine. What is for this run alone is in dir.
func prepare(ctx context.Context, o options, dir string, log *slog.Logger) (*machine, error) {
	if err := lab.InstallTools(ctx, tools, log); err != nil {
		return nil, err
	}
	if err := lab.Setup(ctx, lab.Options{Log: log}); err != nil {
		return nil, err
	}
	qemu, err := findEmulator(ctx, log)
	if err != nil {
		return nil, err
	}
	cached, err := lab.FillCache(ctx, lab.Options{Log: log}, debianImages, machinePackages...)
	if err != nil {
		return nil, err
	}
	m := &machine{
		qemu: qemu, dir: dir, out: o.out, memory: o.memory, cpus: o.cpus, kvm: haveKVM(), counted: o.counted, release: o.kernel,
		stdout: os.Stdout, log: log,
	}
	k, err := m.findDisk(ctx, cached, log)
	if err != nil {
		return nil, err
	}
	m.kernel = k.image()
	if err := m.makeInitrd(ctx, k); err != nil {
		return nil, err
	}
	m.spec = guest.Spec{Cache: cached.Dir, Root: cached.Machine, Modules: modules, Env: m.environment(o, cached)}
	m.spec.Steps, err = m.makePayload(ctx, o)
	return m, err
}

// findDisk finds or makes the kernel and the system disk; one run at a time does, and others wait for it.
func (m *machine) findDisk(ctx context.Context, cached lab.Cached, log *slog.Logger) (kernel, error) {
	cache := filepath.Join(cached.Dir, "vm")
	release, err := lockDir(ctx, cache)
	if err != nil {
		return kernel{}, err
	}
	defer release()
	// The nodes' system is a newer Debian, and has the keys of this one too.
	k, err := m.release.findKernel(ctx, cache, filepath.Join(cached.Dir, cached.Root), log)
	if err != nil {
		return k, err
	}
	image, err := systemDisk(ctx, cache, k, cached, log)
	if err != nil {
		return k, err
	}
	// Open, the image is this run's for as long as it takes, whatever comes into the cache.
	m.system, err = os.Open(image)
	return k, err
}

// environment are the variables of all steps.
func (m *machine) environment(o options, c lab.Cached) []string {
	env := []string{
		"GODWIT_BIN=" + path.Join(guest.Payload, binDir),
		lab.EnvCache + "=" + c.Dir,
		workload.EnvBuilt + "=" + path.Join(guest.Payload, workloadsDir),
	}
	if !m.kvm && !m.counted {
		env = append(env, fmt.Sprintf("%s=%d", pace.Env, slowEmulated))
	}
	return append(env, o.env...)
}

// makePayload builds what the run brings along, and says what is to be done with it.
func (m *machine) makePayload(ctx context.Context, o options) ([]guest.Step, error) {
	p, err := newPayload(ctx, filepath.Join(m.dir, "payload"))
	if err != nil {
		return nil, err
	}
	if err := p.workloads(ctx); err != nil {
		return nil, err
	}
	for _, f := range o.files {
		if err := p.add(ctx, f, filesDir); err != nil {
			return nil, err
		}
	}
	steps, err := p.steps(ctx, o)
	if err != nil {
		return nil, err
	}
	m.payload = filepath.Join(m.dir, "payload.img")
	return steps, p.disk(ctx, m.payload)
}

// steps compiles what the options ask for, and lists the commands.
func (p payload) steps(ctx context.Context, o options) ([]guest.Step, error) {
	var steps []guest.Step
	if len(o.tests) > 0 {
		made, err := p.unitTests(ctx, o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, made...)
	}
	if o.e2e {
		made, err := p.endToEnd(ctx, o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, made...)
	}
	if o.bench {
		const bench = binDir + "/enginebench"
		if err := p.build(ctx, false, modulePath+"/test/enginebench", bench); err != nil {
			return nil, err
		}
		steps = append(steps, guest.Step{
			Name: "bench", Args: append([]string{path.Join(guest.Payload, bench), "-out", path.Join(guest.Out, "engines.json")}, o.benchArgs...),
		})
	}
	if o.shell != "" {
		steps = append(steps, guest.Step{Name: o.shell, Args: []string{"/bin/sh", "-c", o.shell}})
	}
	return steps, nil
}

// autoEngine leaves the choice to the node.
const autoEngine = "auto"

// testFlags are those of a compiled test.
func testFlags(o options, run string) []string {
	flags := []string{"-test.v", "-test.timeout=" + o.timeout.String()}
	if run != "" {
		flags = append(flags, "-test.run="+run)
	}
	if o.skip != "" {
		flags = append(flags, "-test.skip="+o.skip)
	}
	return flags
}

// endToEnd compiles the end-to-end tests and runs them once for each engine.
func (p payload) endToEnd(ctx context.Context, o options) ([]guest.Step, error) {
	const tests = testsDir + "/e2e.test"
	if err := p.build(ctx, true, modulePath+"/test/e2e", tests); err != nil {
		return nil, err
	}
	engines := o.engines
	if len(engines) == 0 {
		engines = o.kernel.engines
	}
	var steps []guest.Step
	for i, engine := range engines {
		run := o.run
		if i == 0 && o.run != "" && o.once != "" {
			run += "|" + o.once
		}
		s := guest.Step{
			Name: "end-to-end tests, tracker " + engine, Args: append([]string{path.Join(guest.Payload, tests)}, testFlags(o, run)...),
			Env: []string{"GODWIT_E2E_KEEP=1"}, // the next one finds the nodes, with all images; the machine goes away at the end
		}
		if o.criu != "" {
			s.Env = append(s.Env, lab.EnvCRIU+"="+o.criu)
		}
		if engine != autoEngine {
			s.Env = append(s.Env, move.EnvTracker+"="+engine)
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// makeInitrd makes the initial RAM file system: PID 1, and the modules without which there is no root file system. It is
// not compressed: unpacking would take longer than reading.
func (m *machine) makeInitrd(ctx context.Context, k kernel) error {
	tree, err := freshDir(filepath.Join(m.dir, "initrd"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, guest.BootModules), 0o755); err != nil {
		return err
	}
	if err := (payload{tree: tree}).build(ctx, false, modulePath+"/test/vm/guestinit", "init"); err != nil {
		return err
	}
	files, err := k.bootFiles()
	if err != nil {
		return err
	}
	for n, f := range files {
		b, err := os.ReadFile(filepath.Join(k.modules(), k.version, f))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, guest.BootModules, fmt.Sprintf("%02d-%s", n, filepath.Base(f))), b, 0o644); err != nil {
			return err
		}
	}
	m.initrd = filepath.Join(m.dir, "initrd.img")
	cmd := exec.CommandContext(ctx, "sh", "-c", `find . | cpio --quiet -o -H newc >"$1"`, "sh", m.initrd)
	cmd.Dir = tree
	_, err = output(cmd)
	return err
}

// lockDir makes a directory and takes its lock, waiting for who has it.
func lockDir(ctx context.Context, dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	// Nothing tells when a lock becomes free, and a call that waits for it heeds no context.
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// haveKVM says whether the processor runs virtual machines. A /dev/kvm alone does not tell: without the processor's help it
// may be one that emulates, and fails at instructions which it does not know.
func haveKVM() bool {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !virtualizes(string(info)) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// virtualizes looks for Intel's or AMD's extension among the flags of the first processor.
func virtualizes(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for f := range strings.FieldsSeq(flags) {
			if f == "vmx" || f == "svm" {
				return true
			}
		}
		return false
	}
	return false
}
