package footprint

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A table of looks one after the other.
func TestGivesBackAfterWorkAndGrowth(t *testing.T) {
	const floor = 20 << 20 // of each time
	k := keeper{worked: true}
	for i, look := range []struct {
		resident uint64
		idle     bool
		want     bool
		why      string
	}{
		{3 * floor, false, false, "it works"},
		{3 * floor, true, true, "it has started"},
		{floor + slack, true, false, "it has not grown beyond the slack"},
		{floor + slack + 1, true, true, "it has grown"},
		{floor + slack + 1, true, false, "it has grown again, and the pause is twice as long"},
		{floor + slack, true, false, "it is small, which does not count"},
		{floor + slack + 1, true, true, "the pause is over"},
		{3 * floor, false, false, "it works"},
		{floor, true, true, "it has worked, however little it has"},
		{floor + slack + 1, true, true, "the pauses are short after work"},
	} {
		got := k.look(look.resident, look.idle)
		if got != look.want {
			t.Errorf("look %d gives memory back: %v, want %v, as %s", i, got, look.want, look.why)
		}
		if got {
			k.floor = floor
		}
	}
}

func TestWhatIsNeededIsGivenBackEverMoreSeldom(t *testing.T) {
	k := keeper{worked: true}
	last, gap := 0, 0
	for i := range 100 * longest {
		if !k.look(slack+1, true) {
			continue
		}
		if i-last < gap {
			t.Fatalf("look %d gives back after %d looks, the one before after %d", i, i-last, gap)
		}
		last, gap = i, i-last
	}
	if gap != longest {
		t.Errorf("in the end memory is given back every %d looks, want %d", gap, longest)
	}
}

// As the kernel writes it, shortened.
const smaps = `00400000-01f3b000 r-xp 00000000 08:01 4711                               /opt/a b/node
Size:              27884 kB
Rss:               16000 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01f3b000-03e7f000 r--p 01b3b000 08:01 4711                               /opt/a b/node
Rss:               16000 kB
Anonymous:             0 kB
03e7f000-03f8b000 rw-p 03a7f000 08:01 4711                               /opt/a b/node
Anonymous:             0 kB
03f8b000-03f9b000 r--p 03b8b000 08:01 4711                               /opt/a b/node
Anonymous:             4 kB
03f9b000-05fee000 rw-p 00000000 00:00 0
Anonymous:           300 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 4712                       /opt/a b/node2
Anonymous:             0 kB
7f0000001000-7f0000002000 r--p 00000000 08:01 4713                       /other/opt/a b/node
Anonymous:             0 kB
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
Anonymous:            20 kB
`

func TestOnlyWhatTheFileHasIsUnmapped(t *testing.T) {
	got, err := cleanAreas(strings.NewReader(smaps), "/opt/a b/node")
	want := []area{{0x400000, 0x1f3b000}, {0x1f3b000, 0x3e7f000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%x, error %v, want %x", got, err, want)
	}
}

func TestWhatIsNoSmapsIsAnError(t *testing.T) {
	for _, line := range []string{"400000 r-xp 0 08:01 1 /node", "40-zz r-xp 0 08:01 1 /node", "50-40 r-xp 0 08:01 1 /node"} {
		if _, err := cleanAreas(strings.NewReader(line+"\nAnonymous: 0 kB\n"), "/node"); err == nil {
			t.Errorf("%q is taken for an area", line)
		}
	}
}

// The test's own program goes on after its pages are gone, and has had fewer of them.
func TestAProgramRunsOnWithoutItsPages(t *testing.T) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	mapped := func() int {
		maps, err := os.ReadFile("/proc/self/smaps")
		if err != nil {
			t.Fatal(err)
		}
		return residentOf(t, string(maps), program)
	}
	if err := unmapProgram(); err != nil {
		t.Fatal(err)
	}
	few := mapped()
	areas, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	clean, err := cleanAreas(strings.NewReader(string(areas)), program)
	if err != nil || len(clean) == 0 {
		t.Fatalf("areas of the program: %v, error %v", clean, err)
	}
	for _, a := range clean {
		if err := madvise(a, unix.MADV_POPULATE_READ); err != nil {
			t.Fatal(err)
		}
	}
	many := mapped()
	if _, err := release(); err != nil {
		t.Fatal(err)
	}
	if now := mapped(); many <= few || now >= many {
		t.Errorf("%d KiB of the program are resident, %d when all was read, and %d before", now, many, few)
	}
}

// residentOf is what is resident of a file, KiB.
func residentOf(t *testing.T, smaps, file string) int {
	t.Helper()
	sum, of := 0, false
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && !strings.HasSuffix(f[0], ":"):
			of = strings.HasSuffix(line, " "+file+"\n")
		case of && f[0] == "Rss:":
			kib, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += kib
		}
	}
	return sum
}
