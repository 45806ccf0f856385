package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/vm/guest"
)

// machine is a virtual machine, and what is to be done in it.
type machine struct {
	qemu           emulator
	dir            string // of this run alone
	release        release
	kernel, initrd string
	// The disks; nothing is ever written to their images.
	system       *os.File
	payload      string
	memory, cpus int // memory in MiB
	kvm          bool
	counted      bool
	spec         guest.Spec
	out          string // takes in the files that come back
	stdout       io.Writer
	log          *slog.Logger
}

func (m *machine) console() string { return filepath.Join(m.dir, "console.log") }

// run boots the machine, has it do all steps, and takes it away. The exit status is that of the first step that failed.
func (m *machine) run(ctx context.Context) (code int, err error) {
	defer m.system.Close()
	socket := filepath.Join(m.dir, "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return 1, fmt.Errorf("control socket: %w", err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() { // ends with qemu, which ends with ctx
		defer close(ended)
		cancel(m.emulate(ctx, socket))
	}()
	code, err = m.converse(ctx, l)
	if err != nil && ctx.Err() == nil {
		// The machine is going down, or qemu is: what it says last says why.
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	<-ended
	if err != nil {
		return 1, fmt.Errorf("%w%s", err, m.lastWords())
	}
	return code, nil
}

// errEnded says that the machine went down before it was done.
var errEnded = errors.New("the virtual machine ended before it was done")

// emulate runs the emulator until ctx ends; it never returns nil.
func (m *machine) emulate(ctx context.Context, socket string) error {
	// The death signal is tied to the thread that starts the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := m.qemu.command(m.arguments(socket)...)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "TMPDIR="+m.dir) // where it keeps what is written to the disks
	// Ctrl-C is for us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	cmd.ExtraFiles = []*os.File{m.system}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: qemu: %w: %s", errEnded, err, strings.TrimSpace(said.String()))
	}
	return errEnded
}

// kernelArguments: a panic, also of an oops, is the end at once; cgroup version 2 is all there is.
const kernelArguments = "console=ttyS0 quiet panic=-1 oops=panic apparmor=0 cgroup_no_v1=all " + lightKernel

// lightKernel leaves out what costs an emulated processor much and is nobody's business here. Nobody attacks this kernel: no
// detours against what processors leak, no checks of copies, no memory cleared before it is given away within the kernel. Memory
// is copied and cleared with plain moves, a string instruction is emulated step by step. Who waits for all processors to have
// left a section asks them at once: namespaces, mounts and cgroups are made and removed by the dozen.
const lightKernel = "mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off nokaslr clearcpuid=rep_good " +
	"rcupdate.rcu_expedited=1 nowatchdog audit=0"

// systemFD is the system disk as qemu gets it.
const systemFD = "/proc/self/fd/3"

// countedClock has a nanosecond pass with every instruction. The seconds inside are then about what they are on a real
// machine, and the same however little of its processors the machine outside gives; also what qemu emulates with many
// instructions, ciphers above all, takes no more of them than in hardware. It takes one processor and one thread.
var countedClock = []string{"-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0", "-smp", "1"}

// emulated is the processor that is emulated. Without la57: a level of page tables less to walk. Without fast string moves,
// of which each byte is a step: the kernel then moves eight at a time.
const emulated = "max,-la57,-erms,-fsrm"

// processor are qemu's arguments for it.
func (m *machine) processor() []string {
	switch {
	case m.kvm:
		return []string{"-accel", "kvm", "-cpu", "host", "-smp", fmt.Sprint(m.cpus)}
	case m.counted:
		return append(slices.Clone(countedClock), "-cpu", emulated)
	}
	// tb-size is the room for translated code, MiB: more of it than the default, and less is translated twice.
	return []string{"-accel", "tcg,thread=multi,tb-size=512", "-cpu", emulated, "-smp", fmt.Sprint(min(m.cpus, runtime.NumCPU()))}
}

// arguments are qemu's.
func (m *machine) arguments(socket string) []string {
	args := append(m.processor(),
		"-m", fmt.Sprint(m.memory), "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-initrd", m.initrd,
		"-append", kernelArguments,
		"-serial", "file:"+m.console(),
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=control,path="+socket,
		"-device", "virtserialport,chardev=control,name="+guest.Port,
	)
	for _, d := range []struct{ serial, image string }{{guest.SystemDisk, systemFD}, {guest.PayloadDisk, m.payload}} {
		args = append(args,
			"-drive", "if=none,id="+d.serial+",format=raw,snapshot=on,cache=unsafe,file="+d.image,
			"-device", "virtio-blk-pci,drive="+d.serial+",serial="+d.serial)
	}
	return args
}

// converse tells the machine what to do, and follows it to the end.
func (m *machine) converse(ctx context.Context, l net.Listener) (code int, err error) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	conn, err := l.Accept()
	if err != nil {
		return 1, fmt.Errorf("control socket: %w", err)
	}
	defer conn.Close()
	stop = context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	began := time.Now()
	if err := json.NewEncoder(conn).Encode(m.spec); err != nil {
		return 1, fmt.Errorf("control socket: %w", err)
	}
	messages := json.NewDecoder(conn)
	for step := -1; ; {
		var msg guest.Message
		if err := messages.Decode(&msg); err != nil {
			return 1, fmt.Errorf("control socket: %w", err)
		}
		if step < 0 {
			m.log.Info("the machine is up", "after", time.Since(began).Round(100*time.Millisecond))
			step = 0
		}
		done, failed, err := m.heed(msg)
		if code == 0 {
			code = failed
		}
		if done || err != nil {
			return code, err
		}
	}
}

// heed does what a message asks for. failed is the exit status of a step that ended.
func (m *machine) heed(msg guest.Message) (done bool, failed int, err error) {
	switch {
	case msg.Failed != "":
		return true, 1, fmt.Errorf("the virtual machine: %s", msg.Failed)
	case msg.Ended != nil:
		if msg.Step < 0 || msg.Step >= len(m.spec.Steps) {
			return true, 1, fmt.Errorf("there is no step %d", msg.Step)
		}
		m.log.Info("ended", "step", m.spec.Steps[msg.Step].Name, "exit status", msg.Ended.Code, "seconds", fmt.Sprintf("%.1f", msg.Ended.Seconds), "error", msg.Ended.Error)
		return false, msg.Ended.Code, nil
	case msg.File != nil:
		return false, 0, m.save(*msg.File)
	case msg.Done:
		return true, 0, nil
	}
	_, err = m.stdout.Write(msg.Output)
	return false, 0, err
}

// save writes a file that came back, never outside of the directory for them.
func (m *machine) save(f guest.File) error {
	if !filepath.IsLocal(f.Name) {
		return fmt.Errorf("file %q: not below /out", f.Name)
	}
	to := filepath.Join(m.out, f.Name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("file %s: %w", f.Name, err)
	}
	if err := os.WriteFile(to, f.Data, 0o644); err != nil {
		return fmt.Errorf("file %s: %w", f.Name, err)
	}
	m.log.Info("came back", "file", to)
	return nil
}

// lastWords are the end of the machine's console; all of it is kept beside the files that come back.
func (m *machine) lastWords() string {
	b, err := os.ReadFile(m.console())
	if err == nil {
		err = m.save(guest.File{Name: "console.log", Data: b})
	}
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" {
		return "\nits console is empty"
	}
	return "\n--- its console ends with\n" + theEnd(text)
}

// theEnd is the last screenful of a console, and all from the kernel's first complaint on.
func theEnd(console string) string {
	const screenful = 40
	lines := strings.Split(console, "\n")
	from := max(0, len(lines)-screenful)
	for i, line := range lines[:from] {
		if strings.Contains(line, "Kernel panic") || strings.Contains(line, "Oops:") || strings.Contains(line, "BUG:") {
			from = i
			break
		}
	}
	return strings.Join(lines[from:], "\n")
}
