package processcheck

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/pagestream/criuversion"
	"godwit.dev/godwit/test/criunode"
)

// held is what a process holds, and what is said of it.
type held struct {
	kind string
	// refused is a part of the refusal, empty if there is none.
	refused string
	// beyond says that criu dumps it all the same: it is what comes after that fails.
	beyond bool
}

// everything that testdata/hold can hold.
var everything = []held{
	{kind: "nothing"},
	{kind: "eventfd"},
	{kind: "epoll"},
	{kind: "timerfd"},
	{kind: "signalfd"},
	{kind: "memfd"},
	{kind: "null"},
	{kind: "file"},
	{kind: "file-deleted"},
	{kind: "file-locked"},
	{kind: "fanotify"},
	{kind: "inotify-tmpfs"},
	{kind: "inotify-root", refused: "watches files of the container's image by inotify"},
	{kind: "mqueue", refused: "/held open"},
	{kind: "kvm", refused: "the device /dev/kvm open, which CRIU cannot dump"},
	{kind: "fuse", refused: "the device /dev/fuse open"},
	{kind: "vsock-device", refused: "the device /dev/vsock open"},
	{kind: "block-device", refused: "the device /dev/loop0 open"},
	{kind: "tun"},
	{kind: "tun-attached", refused: "has the interface held0 of /dev/net/tun", beyond: true},
	{kind: "io_uring", refused: "has an io_uring open (descriptor "},
	{kind: "io_uring-mapped", refused: "has an io_uring mapped"},
	{kind: "userfaultfd", refused: "has userfaultfd open"},
	{kind: "perf", refused: "has perf_event open"},
	{kind: "bpf-array", refused: "has bpf-map open"},
	{kind: "bpf-ringbuf", refused: "has bpf-map open"},
	{kind: "bpf-program", refused: "has bpf-prog open"},
	{kind: "secretmem", refused: "has secret memory"},
	{kind: "landlock", refused: "has landlock-ruleset open"},
	{kind: "seccomp-listener", refused: "has a seccomp listener open"},
	{kind: "pidfd-self"},
	{kind: "pidfd-outside", refused: "outside of the container"},
	{kind: "pidfd-thread", refused: "a pidfd of a thread"},
	{kind: "pty"},
	{kind: "pty-without-master", refused: "has the terminal /dev/pts/"},
	{kind: "unix-pair"},
	{kind: "unix-many"},
	{kind: "unix-elsewhere", refused: "connected to one outside of the pod"},
	{kind: "unix-inherited", refused: "that was made outside of the pod"},
	{kind: "netlink"},
	{kind: "netlink-group-34", refused: "a netlink socket in a group beyond the 32nd"},
	{kind: "packet"},
	{kind: "vsock", refused: "a socket of AF_VSOCK"},
	{kind: "alg", refused: "a socket of AF_ALG"},
	{kind: "xdp", refused: "a socket of AF_XDP"},
	{kind: "sctp", refused: "an SCTP socket"},
	{kind: "mptcp", refused: "a multipath TCP socket"},
	{kind: "raw"},
	{kind: "udp"},
	{kind: "udp-corked", refused: "a corked UDP socket"},
	{kind: "tcp-listening"},
	{kind: "tcp-listening-local"},
	{kind: "tcp-connected"},
	{kind: "namespace-mnt", refused: "namespace of its own (mnt)"},
	{kind: "namespace-uts", refused: "namespace of its own (uts)"},
	{kind: "namespace-ipc", refused: "namespace of its own (ipc)"},
	{kind: "namespace-net", refused: "namespace of its own (net)", beyond: true},
	{kind: "namespace-pid", refused: "namespace of its own (pid)"},
	{kind: "namespace-user", refused: "namespace of its own (user)"},
	{kind: "namespace-cgroup", refused: "namespace of its own (cgroup)"},
	{kind: "traced", refused: "is traced by process"},
	{kind: "stopped"},
	{kind: "user", refused: withoutResource("is not root's")},
}

// withoutResource is a refusal on machines where nobody has CAP_SYS_RESOURCE.
func withoutResource(refused string) string {
	if anyoneMay(unix.CAP_SYS_RESOURCE) {
		return ""
	}
	return refused
}

// machine is a node with the program of testdata/hold.
type machine struct {
	*criunode.Node
}

// newMachine skips the test where there can be none.
func newMachine(t *testing.T) *machine {
	t.Helper()
	shared := t.TempDir()
	n, err := criunode.New(shared)
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no compiler for the program that holds things: ", err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(shared, "hold"), "./testdata/hold")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return &machine{n}
}

// hold starts the program in a network of its own, as a pod's is, and returns its pid in the node.
// It skips the test if the machine does not let it have the thing.
func (m *machine) hold(t *testing.T, kind string) (inside int) {
	t.Helper()
	ready := "/tmp/ready-" + kind
	start := m.Command(t.Context(), "bash", "-c", `exec 3<&0; unshare --net bash -c 'ip link set lo up; exec setsid "$@" <&3 3<&-' start /shared/hold "$@" >/dev/null 2>&1 & echo $!`, "hold", kind, ready)
	if kind == "unix-inherited" {
		start.Stdin = outsideSocket(t)
	}
	out, err := start.Output()
	if err != nil {
		t.Fatal(err)
	}
	if inside, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
		t.Fatal(err)
	}
	if err := m.Await(t.Context(), ready, "\n"); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(m.Path(ready))
	if err != nil {
		t.Fatal(err)
	}
	if string(said) != "ready\n" {
		t.Skipf("not on this machine: %s", said)
	}
	return inside
}

// outsideSocket is one end of a connection whose other end stays here.
func outsideSocket(t *testing.T) *os.File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[0]) })
	theirs := os.NewFile(uintptr(pair[1]), "outside")
	t.Cleanup(func() { theirs.Close() })
	return theirs
}

// dump has criu dump a process as runc would, with the options of a move. The network is not dumped.
func (m *machine) dump(ctx context.Context, inside int, kind string) error {
	const script = `mkdir "$2" && criu dump -v2 --tree "$1" -D "$2" -o log --leave-running --manage-cgroups=ignore --tcp-close --file-locks \
		--network-lock skip --link-remap --skip-in-flight --ghost-limit 1G --external "net[$(stat -Lc %i /proc/"$1"/ns/net)]:network" ||
		{ grep Error "$2"/log | grep -v rlimit; exit 1; }`
	out, err := m.Command(ctx, "bash", "-c", script, "dump", strconv.Itoa(inside), "/tmp/images-"+kind).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// outer is the pid here of a process of the node.
func (m *machine) outer(t *testing.T, inside int) int {
	t.Helper()
	pids, err := m.PIDs("hold")
	if err != nil {
		t.Fatal(err)
	}
	for here, there := range pids {
		if there == inside {
			return here
		}
	}
	t.Fatalf("process %d of the node is not there", inside)
	return 0
}

// judge is Check for a process of the node, where containers' first processes have no pid namespaces of their own.
func judge(t *testing.T, pid int) []obstacle.Finding {
	t.Helper()
	s, err := Gather(t.Context(), []Container{{Name: "held", PID: pid}})
	if err != nil {
		t.Fatal(err)
	}
	s.CRIU = criuversion.Version{Major: 4, Minor: 2}
	s.Containers[0].Processes[0].PIDInside = 1
	return Judge(s)
}

// What is refused is what the real criu cannot dump, and what it can passes.
func TestRefusedIsWhatCRIUCannotDump(t *testing.T) {
	m := newMachine(t)
	for _, h := range everything {
		t.Run(h.kind, func(t *testing.T) {
			inside := m.hold(t, h.kind)
			found := obstacle.Refusals(judge(t, m.outer(t, inside)))
			if said := obstacle.List(found); (h.refused == "") != (said == "") || !strings.Contains(said, h.refused) {
				t.Errorf("refused %q, want %q", said, h.refused)
			}
			err := m.dump(t.Context(), inside, h.kind)
			if dumps := h.refused == "" || h.beyond; dumps != (err == nil) {
				t.Errorf("criu dumps it: %v; want %v", err, dumps)
			}
			t.Logf("refused: %s; criu: %v", obstacle.List(found), err)
		})
	}
}

func TestWarningsTellWhatDoesNotComeAlong(t *testing.T) {
	m := newMachine(t)
	for kind, want := range map[string]string{
		"tcp-connected":  "TCP connections, which the move closes",
		"netlink-unread": "unread messages on a netlink socket",
	} {
		t.Run(kind, func(t *testing.T) {
			found := judge(t, m.outer(t, m.hold(t, kind)))
			if said := obstacle.List(obstacle.Warnings(found)); !strings.Contains(said, want) || len(obstacle.Refusals(found)) != 0 {
				t.Errorf("%q, want %q", said, want)
			}
		})
	}
}

func TestAListenerOnThePodsOwnAddressIsRefused(t *testing.T) {
	m := newMachine(t)
	pid := m.outer(t, m.hold(t, "tcp-listening-local"))
	for address, refused := range map[string]bool{"127.0.0.1": true, "10.1.2.3": false} {
		s, err := Gather(t.Context(), []Container{{Name: "held", PID: pid}})
		if err != nil {
			t.Fatal(err)
		}
		s.Addresses = []netip.Addr{netip.MustParseAddr(address)}
		if said := obstacle.List(Judge(s)); strings.Contains(said, "listens on 127.0.0.1:7002, the pod's own address") != refused {
			t.Errorf("of a pod with address %s: %q", address, said)
		}
	}
}

// A process that comes and goes is in nobody's way, and whose first process has ended is no container.
func TestContainerThatHasEndedIsAnError(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(t.Context(), Move{Containers: []Container{{Name: "web", PID: ended.Process.Pid}}}); err == nil || !strings.Contains(err.Error(), "container web") {
		t.Errorf("gathered: %v", err)
	}
}

func TestFindingsNameContainerProcessAndRemedy(t *testing.T) {
	ring, _, errno := unix.Syscall(unix.SYS_EPOLL_CREATE1, 0, 0, 0) // any file that is ours
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(int(ring))
	start := time.Now()
	s, err := Gather(t.Context(), []Container{{Name: "web", PID: os.Getpid()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("gathered in %v", time.Since(start))
	p := s.Containers[0].Processes[0]
	p.Files = append(p.Files, File{FD: 9, Type: 0, Link: "anon_inode:[io_uring]"})
	got := Judge(&Snapshot{Containers: []ContainerState{{Name: "web", Processes: []Process{p}}}})
	want := fmt.Sprintf("container web, process %d (%s) has an io_uring open (descriptor 9), which CRIU cannot dump: configure it not to use io_uring", os.Getpid(), p.Name)
	for _, f := range got {
		if f.Text == want {
			return
		}
	}
	t.Errorf("%+v, want %q", got, want)
}
