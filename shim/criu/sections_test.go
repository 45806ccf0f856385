package criu

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/pagemap"
)

func sectionsOf(t *testing.T, text string) []section {
	t.Helper()
	s, err := split([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFlagsOfAnAreaThatHasGrownAreThoseOfWhatItHasGrownOutOf(t *testing.T) {
	const plain, registered, locked = "rd wr mr mw me ac sd", "rd wr mr mw me ac uw", "rd wr mr mw me lo ac sd"
	anon := func(from, to int) string { return fmt.Sprintf("%x-%x rw-p 00000000 00:00 0 ", from<<20, to<<20) }
	for name, c := range map[string]struct {
		before []string // header and flags, in turns
		now    string
		want   string // its flags; empty: not known
	}{
		"as it was":                       {[]string{anon(1, 3), plain}, anon(1, 3), plain},
		"grown at its end":                {[]string{anon(1, 3), plain}, anon(1, 5), plain},
		"grown at its beginning":          {[]string{anon(2, 3), plain}, anon(1, 3), plain},
		"joined, one of them registered":  {[]string{anon(1, 3), registered, anon(3, 5), plain}, anon(1, 5), plain},
		"joined, though one was locked":   {[]string{anon(1, 3), plain, anon(3, 5), locked}, anon(1, 5), ""},
		"new":                             {[]string{anon(1, 3), plain}, anon(4, 5), ""},
		"shrunk, maybe split":             {[]string{anon(1, 5), plain}, anon(1, 3), ""},
		"moved over the end of another":   {[]string{anon(1, 3), plain}, anon(2, 5), ""},
		"of other permissions":            {[]string{strings.Replace(anon(1, 3), "rw-p", "r--p", 1), plain}, anon(1, 5), ""},
		"of a name it did not have":       {[]string{anon(1, 3), plain}, anon(1, 5) + "                         [anon:x]", ""},
		"of a file":                       {[]string{"100000-300000 rw-p 00000000 00:01 7 /f", plain}, "100000-500000 rw-p 00000000 00:01 7 /f", ""},
		"shared":                          {[]string{"100000-300000 rw-s 00000000 00:00 0 ", plain}, "100000-500000 rw-s 00000000 00:00 0 ", ""},
		"a neighbour that stays the same": {[]string{anon(1, 3), locked, anon(3, 5), plain}, anon(3, 6), plain},
	} {
		var text string
		for i := 0; i < len(c.before); i += 2 {
			text += area(c.before[i], c.before[i+1])
		}
		before, now := sectionsOf(t, text), sectionsOf(t, c.now+"\n")
		rest := grow(now, before, carryOver(now, before))
		if got := strings.TrimSpace(string(now[0].flags)); got != c.want || (len(rest) > 0) != (c.want == "") {
			t.Errorf("%s: flags %q, want %q; %d are not known", name, got, c.want, len(rest))
		}
		if want := sectionsOf(t, area(c.now, c.want))[0].area.Flags; c.want != "" && now[0].area.Flags != want {
			t.Errorf("%s: flags %x are decided by, want %x", name, now[0].area.Flags, want)
		}
	}
}

// playMapper has this program map memory as it is told on its input.
const playMapper = "GODWIT_TEST_PLAY_MAPPER"

// mapper maps MiB of memory at an address, touched, for each line of its input, and says so.
func mapper() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var at, size, advice uintptr
		fmt.Sscanf(in.Text(), "%x %d %d", &at, &size, &advice)
		got, _, errno := unix.Syscall6(unix.SYS_MMAP, at, size<<20, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|unix.MAP_POPULATE, ^uintptr(0), 0)
		if errno == 0 && advice != 0 {
			_, _, errno = unix.Syscall(unix.SYS_MADVISE, got, size<<20, advice)
		}
		fmt.Println(errno)
	}
}

func TestAViewOfAProcessThatHasChangedIsWhatSmapsSays(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root to read another process' memory map")
	}
	const big = 0x600000000000
	for name, lines := range map[string][]string{
		"a small area before a big one": {fmt.Sprintf("%x 2 %d", big-1<<30, unix.MADV_DONTFORK)},
		"a big one has grown":           {fmt.Sprintf("%x 4 0", big+128<<20)},
		"one behind it":                 {fmt.Sprintf("%x 4 %d", big+200<<20, unix.MADV_DONTDUMP)},
		"all of these": {fmt.Sprintf("%x 2 %d", big-1<<30, unix.MADV_DONTFORK), fmt.Sprintf("%x 4 0", big+128<<20),
			fmt.Sprintf("%x 4 %d", big+200<<20, unix.MADV_DONTDUMP)},
	} {
		t.Run(name, func(t *testing.T) {
			p := startMapper(t)
			p.tell(t, fmt.Sprintf("%x 128 0", big))
			v, err := NewView(t.TempDir(), p.pid, 1, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				p.tell(t, line)
			}
			p.stop(t)
			if changed, err := v.Refresh(); err != nil || !changed {
				t.Fatalf("changed: %v, %v", changed, err)
			}
			p.compare(t, v)
		})
	}
}

// mapping is a process that maps memory.
type mapping struct {
	pid int
	in  *os.File
	out *bufio.Reader
}

func startMapper(t *testing.T) *mapping {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), playMapper+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	read, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = read
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read.Close()
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	return &mapping{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
}

func (m *mapping) tell(t *testing.T, line string) {
	t.Helper()
	fmt.Fprintln(m.in, line)
	if answer, err := m.out.ReadString('\n'); err != nil || answer != "errno 0\n" {
		t.Fatalf("map %s: %q, %v", line, answer, err)
	}
}

// stop stops the process and returns when all its threads stand: the first does before the others.
func (m *mapping) stop(t *testing.T) {
	t.Helper()
	syscall.Kill(m.pid, syscall.SIGSTOP)
	for {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", m.pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("threads of process %d: %v", m.pid, err)
		}
		if !slices.ContainsFunc(threads, func(path string) bool {
			text, err := os.ReadFile(path)
			return err == nil && !bytes.Contains(text, []byte(") T "))
		}) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// compare compares what a view shows with what it would show if all of smaps were read.
func (m *mapping) compare(t *testing.T, v *View) {
	t.Helper()
	sections, err := readSections(m.pid)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(v.file)
	if err != nil {
		t.Fatal(err)
	}
	truth, owned := show(sections, false)
	if fmt.Sprint(owned) != fmt.Sprint(v.owned) {
		t.Errorf("%v are ours, by smaps %v", v.owned, owned)
	}
	shown, want := sectionsOf(t, string(text)), sectionsOf(t, string(truth))
	if len(shown) != len(want) {
		t.Fatalf("%d areas are shown, smaps has %d", len(shown), len(want))
	}
	for i, s := range shown {
		if !bytes.Equal(s.header, want[i].header) || !bytes.Equal(s.flags, want[i].flags) {
			t.Errorf("shown is %q with %q, smaps has %q with %q", s.header, s.flags, want[i].header, want[i].flags)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte(area("10000000-10400000 rw-p 00000000 00:00 0 ", "rd wr mr mw me ac sd")))
	f.Add([]byte("10000000-10400000 rw-p 00000000 00:00 0 \n20000000-20400000 r--p 00000000 00:00 0 [vvar]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sections, err := split(text)
		if err != nil {
			return
		}
		for _, s := range sections {
			if s.area.Start >= s.area.End {
				t.Errorf("area %x-%x", s.area.Start, s.area.End)
			}
			if (s.area.Flags&pagemap.FlagsKnown != 0) != (s.flags != nil) {
				t.Errorf("%q: flags %q, known %x", s.header, s.flags, s.area.Flags)
			}
		}
	})
}
