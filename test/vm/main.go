// Command vm runs tests in a virtual machine whose kernel has what the machine's own may lack: soft-dirty tracking, and
// cgroup version 2 alone. It boots Debian's cloud kernel in qemu, emulated if there is no KVM, brings the lab's cache and
// the project's binaries in, runs steps inside, shows what they write as they write it, and ends with the exit status of the
// first that failed.
//
//	go run ./test/vm                                 the end-to-end tests, once for each engine
//	go run ./test/vm -run Redis -engines soft-dirty  some of them, with one engine
//	go run ./test/vm -kernel bookworm                on Linux 6.1, which has soft-dirty tracking and nothing newer
//	go run ./test/vm -kernel bookworm -criu 3.17     and with a CRIU of that kernel's time
//	go run ./test/vm -test ./pagestream/track        the unit tests of packages instead; with -e2e, before
//	go run ./test/vm -bench                          the bench of the engines; its report comes back to the directory -out
//	go run ./test/vm -shell 'criu check --all'       any command; what is in /out afterwards comes back, too
//
// It needs root, for the lab's cache, and `make build`. Any number of machines run at once; they share what is cached, and
// write to nothing of each other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

// options are the flags.
type options struct {
	run, skip string
	once      string
	testRun   string
	tests     list
	engines   list
	e2e       bool
	bench     bool
	counted   bool
	benchArgs []string
	shell     string
	kernel    release
	criu      string // the version of an older one, for the nodes
	files     list
	env       list
	out       string
	memory    int // MiB
	cpus      int
	timeout   time.Duration
}

// list is a flag that is given several times, or once with commas.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, strings.Split(s, ",")...)
	return nil
}

func parseFlags(args []string, output io.Writer) (options, error) {
	o := options{kernel: trixie}
	f := flag.NewFlagSet("vm", flag.ContinueOnError)
	f.SetOutput(output)
	f.BoolVar(&o.e2e, "e2e", false, "run the end-to-end tests; so it is if nothing else is asked for")
	f.Var(&o.engines, "engines", "the `trackers` with each of which the end-to-end tests run, as godwitctl migrate --tracker names them; with auto the node chooses (default those that the kernel has)")
	f.StringVar(&o.run, "run", "", "run only the tests that match `regexp`, as go test takes it: of the end-to-end tests, or without them of -test's")
	f.StringVar(&o.skip, "skip", "", "leave out the tests that match `regexp`, in the same way")
	f.StringVar(&o.once, "once", "", "besides, with the first engine only, the end-to-end tests that match `regexp`")
	f.Var(&o.tests, "test", "run the unit tests of these `packages`")
	f.StringVar(&o.testRun, "test-run", "", "of them, only those that match `regexp`")
	f.BoolVar(&o.counted, "counted", false, "have an emulated machine's clock count instructions, with one processor: see countedClock; the bench always has it")
	f.BoolVar(&o.bench, "bench", false, "run the bench of the engines; arguments after all flags are its own")
	f.Var(&o.kernel, "kernel", "the Debian `release` whose kernel is booted: trixie (6.12) or bookworm (6.1)")
	f.StringVar(&o.criu, "criu", "", "have the nodes of the end-to-end tests use an older CRIU: 4.1 or, with -kernel bookworm, 3.17")
	f.StringVar(&o.shell, "shell", "", "run this `command`, with sh")
	f.Var(&o.files, "file", "bring `files` or directories along: they are in /payload/files")
	f.Func("env", "set a variable, `NAME=value`, for all that runs inside", func(s string) error {
		o.env = append(o.env, s)
		return nil
	})
	f.StringVar(&o.out, "out", "out/vm", "take in what the steps leave in /out, to this `directory`")
	f.IntVar(&o.memory, "memory", 4096, "memory of the machine, `MiB`")
	f.IntVar(&o.cpus, "cpus", 2, "its processors, if the machine has KVM; an emulated one has one")
	f.DurationVar(&o.timeout, "timeout", 40*time.Minute, "end the machine after this time")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 && !o.bench {
		return o, fmt.Errorf("%q: only the bench takes arguments", f.Arg(0))
	}
	o.benchArgs = f.Args()
	o.counted = o.counted || o.bench
	if o.testRun != "" && len(o.tests) == 0 {
		return o, errors.New("-test-run: it is of the packages that -test names, and there are none")
	}
	if o.criu != "" {
		if _, err := lab.FindCRIU(o.criu); err != nil {
			return o, fmt.Errorf("-criu: %w", err)
		}
	}
	o.e2e = o.e2e || len(o.tests) == 0 && !o.bench && o.shell == ""
	return o, nil
}

func main() {
	o, err := parseFlags(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	code, err := run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if errors.Is(err, errNoEmulator) {
		fmt.Println("SKIPPED, no virtual machine:", err)
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	os.Exit(code)
}

// run makes what is missing, boots, and runs the steps. The exit status is never 0 with an error.
func run(ctx context.Context, o options, log *slog.Logger) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("it needs root: the lab's cache is root's")
	}
	dir, err := os.MkdirTemp("", "godwit-vm-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	m, err := prepare(ctx, o, dir, log)
	if err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it took longer than %v (-timeout)", o.timeout))
	defer cancel()
	return m.run(ctx)
}
