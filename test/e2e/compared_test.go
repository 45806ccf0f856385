package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/postgres"
	"godwit.dev/godwit/test/workload"
)

// compared moves a pod there and back, each time compared with CRIU's own dump page by page, and sees that most of its memory
// was.
func compared(t *testing.T, p *pod, verify func(), flags ...string) {
	t.Helper()
	a, b := nodes(t)
	for _, to := range []*lab.Node{b, a} {
		r := p.moveTo(to, append([]string{"--compare-dump"}, flags...)...)
		t.Logf("%d pages (%.1f MiB) are those of CRIU's own dump", r.ComparedPages, mib(r.ComparedPages*4096))
		if r.ComparedPages*4096 < r.MemoryBytes/2 {
			t.Errorf("%d pages were compared, of %d bytes of memory", r.ComparedPages, r.MemoryBytes)
		}
		verify()
	}
}

// What would be restored is what CRIU dumps by itself: of several containers; of processes that fork, map and unmap all the time;
// of shared, anonymous and in files; of what has been written since it was copied, and of what nobody has touched.
func TestMemoryIsThatOfCRIUsOwnDump(t *testing.T) {
	a, _ := nodes(t)
	t.Run("redis that is written to", func(t *testing.T) {
		for _, flags := range [][]string{nil, {"--mode", "cold"}} {
			p := runPod(t, a, lab.PodSpec{Name: "compared", Containers: []lab.ContainerSpec{redisContainer(t), container(t, workload.Ticker, workload.Port, "/lines")}})
			w := startWriter(t, p, keys(30_000))
			w.awaitWrites(writeRate / 2)
			compared(t, p, func() {
				w.redis.AlsoAt(p.at(redisPort))
				w.awaitWrites(writeRate / 4)
				p.check(workload.Port)
				w.verifyAndGoOn()
			}, flags...)
			w.stop()
		}
	})
	t.Run("every kind", func(t *testing.T) {
		const hugetlb = 8 // MiB
		swapOn(t)
		args := []string{workload.Kinds, workload.Port}
		if reserveHugePages(t, 4*hugetlb/2) { // for the program, here and there, twice over
			args = append(args, strconv.Itoa(hugetlb))
		}
		p := program(t, a, args...)
		compared(t, p, func() { t.Log(p.check(workload.Port)) })
		thereAndBack(t, p, func() { t.Log(p.check(workload.Port)) })
	})
	t.Run("storm", func(t *testing.T) {
		p := program(t, a, workload.Storm, workload.Port)
		time.Sleep(2 * time.Second) // a storm needs time to rise
		compared(t, p, func() { t.Log(p.check(workload.Port)) })
	})
	t.Run("shared memory", func(t *testing.T) {
		p := program(t, a, workload.SharedPair, workload.Port, "32")
		compared(t, p, func() { t.Log(p.check(workload.Port)) })
	})
	t.Run("files and sockets", func(t *testing.T) {
		p := program(t, a, workload.Filer, workload.Port, "inotify")
		compared(t, p, func() { t.Log(p.check(workload.Port)) })
	})
	t.Run("postgres", func(t *testing.T) {
		server, err := postgres.New(t.Context(), 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		p := runPod(t, a, lab.PodSpec{Name: "compared-postgres", Containers: []lab.ContainerSpec{{
			Name: "postgres", Image: makeImage(t, "postgres", postgres.Image), Command: server.Args, UID: &server.User,
		}}})
		c := postgres.NewClient(p.at(postgres.Port))
		if err := c.Fill(within(t, 2*time.Minute)); err != nil {
			t.Fatal(err)
		}
		compared(t, p, func() {
			c.OnlyAt(p.at(postgres.Port))
			if err := c.Verify(within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// swapOn has the machine swap to a file, until the test ends, if it can.
func swapOn(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "swap")
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `dd if=/dev/zero of="$1" bs=1M count=64 status=none && chmod 600 "$1" && mkswap "$1" && swapon "$1"`, "sh", path).CombinedOutput()
	if err != nil {
		t.Logf("without swap: %v: %s", err, out)
		return
	}
	t.Cleanup(func() {
		if out, err := exec.Command("swapoff", path).CombinedOutput(); err != nil {
			t.Errorf("swapoff: %v: %s", err, out)
		}
	})
}

// reserveHugePages has the machine set so many pages of 2 MiB aside, until the test ends, if it can.
func reserveHugePages(t *testing.T, pages int) bool {
	t.Helper()
	const setting = "/proc/sys/vm/nr_hugepages"
	read := func() (n int) {
		b, err := os.ReadFile(setting)
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		if err != nil {
			t.Logf("without huge pages: %v", err)
			return -1
		}
		return n
	}
	before := read()
	if before < 0 || os.WriteFile(setting, []byte(strconv.Itoa(before+pages)), 0) != nil {
		return false
	}
	t.Cleanup(func() { _ = os.WriteFile(setting, []byte(strconv.Itoa(before)), 0) })
	return read() >= before+pages
}

// changeStored changes a byte of each page that the destination has stored so far.
func (s *scene) changeStored() {
	s.t.Helper()
	paths, err := filepath.Glob(s.to.Path("/run/godwit/store/" + s.migration + "/pages/*-process-*.data"))
	if err != nil {
		s.t.Fatal(err)
	}
	changed := 0
	for _, path := range paths {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			s.t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			s.t.Fatal(err)
		}
		var b [1]byte
		for at := int64(100); at < info.Size(); at += 4096 {
			if _, err := f.ReadAt(b[:], at); err != nil {
				s.t.Fatal(err)
			}
			b[0]++
			if _, err := f.WriteAt(b[:], at); err != nil {
				s.t.Fatal(err)
			}
			changed++
		}
	}
	if changed == 0 {
		s.t.Fatalf("nothing is stored of migration %s", s.migration)
	}
}
