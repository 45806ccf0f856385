package track

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// tree returns the process and all its descendants, children after parents,
// without zombies.
func tree(root int) ([]Process, error) {
	var all []Process
	for todo := []int{root}; len(todo) > 0; todo = todo[1:] {
		pid := todo[0]
		status, err := readStatus(pid, pid)
		if err != nil || strings.HasPrefix(status["State"], "Z") {
			continue
		}
		all = append(all, Process{PID: pid, Space: pagestream.Space{Kind: pagestream.Process, ID: uint64(pid)}})
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			for _, field := range strings.Fields(string(text)) {
				if child, err := strconv.Atoi(field); err == nil {
					todo = append(todo, child)
				}
			}
		}
	}
	return all, nil
}

// freeze stops every thread of a tree, as a freezer would.
func freeze(t testing.TB, root int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		procs, _ := tree(root)
		stopped := true
		for _, p := range procs {
			unix.Kill(p.PID, unix.SIGSTOP)
			stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID))
			for _, stat := range stats {
				text, err := os.ReadFile(stat)
				if err != nil {
					stopped = false
					continue
				}
				state := text[bytes.LastIndexByte(text, ')')+2]
				stopped = stopped && (state == 'T' || state == 'Z' || state == 'X')
			}
		}
		after, _ := tree(root)
		if stopped && slices.Equal(procs, after) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the processes do not stop")
		}
	}
}

// killTree kills a tree, which must not have children meanwhile.
func killTree(t testing.TB, root int) {
	freeze(t, root)
	procs, _ := tree(root)
	for _, p := range procs {
		unix.Kill(p.PID, unix.SIGKILL)
	}
}

func thaw(root int) {
	procs, _ := tree(root)
	for _, p := range procs {
		unix.Kill(p.PID, unix.SIGCONT)
	}
}

// copies are the pages of all spaces as the other side would have them.
type copies map[pagestream.Space]map[uint64][]byte

// take copies what a round found. It may fail only for processes that ended.
func (c copies) take(t testing.TB, r Round) {
	t.Helper()
	for _, space := range r.Gone {
		delete(c, space)
	}
	for _, p := range r.Processes {
		if p.Err != nil {
			t.Logf("round: %v", p.Err)
		}
		checkRound(t, p)
		checkPresent(t, p)
		if p.New {
			delete(c, p.Space)
		}
		if c[p.Space] == nil {
			c[p.Space] = map[uint64][]byte{}
		}
		if p.Looked != nil { // copies of pages that are not there now are void, also if khugepaged fills their holes
			for a := range c[p.Space] {
				if !pagestream.Contains(p.Present, a) {
					delete(c[p.Space], a)
				}
			}
		}
		buf := make([]byte, p.Pages*pagestream.PageSize)
		missing, err := pagemap.ReadMemory(p.PID, p.Dirty, buf)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range p.Dirty {
			for a := d.Start; a < d.End(); a += pagestream.PageSize {
				c[p.Space][a] = buf[:pagestream.PageSize:pagestream.PageSize]
				buf = buf[pagestream.PageSize:]
			}
		}
		for _, m := range missing {
			for a := m.Start; a < m.End(); a += pagestream.PageSize {
				delete(c[p.Space], a)
			}
		}
	}
}

// checkRound checks the form of what a round says of a process.
func checkRound(t testing.TB, p ProcessRound) {
	t.Helper()
	var pages, end uint64
	for _, d := range p.Dirty {
		if err := d.Valid(); err != nil {
			t.Fatal(err)
		}
		if d.Start < end || end == d.Start && end != 0 {
			t.Fatalf("range %v after one that ends at %#x: %v", d, end, p.Dirty)
		}
		pages += d.Pages
		end = d.End()
	}
	if pages != p.Pages {
		t.Fatalf("%d pages in the ranges, %d said", pages, p.Pages)
	}
}

// checkPresent checks that a frozen round tells the pages that there are, as a scan for them finds them
// afterwards. Only khugepaged may have filled holes since.
func checkPresent(t testing.TB, p ProcessRound) {
	t.Helper()
	if p.Looked == nil {
		return
	}
	s := &scratch{regions: make([]pagemap.Region, 1000)}
	pm, err := s.open(p.PID)
	if errors.Is(err, ErrGone) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer pm.Close()
	var there, armed []pagestream.Range
	for _, over := range s.areas.lazy {
		found, err := scan(pm, over, presentQuery(), s.regions)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range found {
			there = pagestream.AppendRun(there, r)
		}
		if s.tracked(pm, over) {
			armed = pagestream.AppendRun(armed, over.pages())
		}
	}
	if looked := s.areas.clip([]pagestream.Range{s.areas.bounds().pages()}); !slices.Equal(p.Looked, looked) {
		t.Errorf("process %d: looked at %v of %v", p.PID, p.Looked, looked)
	}
	if more := pagestream.Subtract(p.Present, there); len(more) > 0 {
		t.Errorf("process %d: the round tells pages that are not there: %v", p.PID, more)
	}
	if lacking := pagestream.Subtract(there, p.Present); len(pagestream.Intersect(lacking, armed)) > 0 {
		t.Errorf("process %d: the round does not tell %v", p.PID, lacking)
	}
}

// compare compares the copies with the frozen processes: every page that CRIU
// would dump as a lazy one must be there and be what the process has. It returns
// how many there are.
func (c copies) compare(t testing.TB, procs []Process) (pages int) {
	t.Helper()
	buf, zeros := make([]byte, pagestream.PageSize), make([]byte, pagestream.PageSize)
	filled := 0
	for _, p := range procs {
		vmas, err := pagemap.ReadSmaps(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		s := &scratch{regions: make([]pagemap.Region, 1000)}
		s.areas.set(vmas)
		pm, err := pagemap.Open(p.PID)
		if err != nil {
			t.Fatal(err)
		}
		defer pm.Close()
		mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		defer mem.Close()
		bad := 0
		for _, over := range s.areas.lazy {
			present, err := scan(pm, over, presentQuery(), s.regions)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range present {
				for a := r.Start; a < r.End(); a += pagestream.PageSize {
					pages++
					if _, err := mem.ReadAt(buf, int64(a)); err != nil {
						t.Fatalf("page %#x of process %d: %v", a, p.PID, err)
					}
					copied, ok := c[p.Space][a]
					if ok && bytes.Equal(copied, buf) {
						continue
					}
					// khugepaged works on frozen processes too: a hole in an area
					// that is not registered yet may have become zeros.
					if !ok && bytes.Equal(buf, zeros) && !s.tracked(pm, over) {
						filled++
						continue
					}
					if bad++; bad < 5 {
						entry := make([]pagemap.Entry, 1)
						pm.ReadEntries(a, entry)
						t.Errorf("process %d, page %#x of %#x-%#x: copied %v, not what it has (entry %#x)", p.PID, a, over.start, over.end, ok, entry[0])
					}
				}
			}
		}
		if bad > 0 {
			t.Errorf("process %d: %d pages wrong", p.PID, bad)
		}
	}
	if filled > 0 {
		t.Logf("%d holes were filled after the last round", filled)
	}
	return pages
}

// tracked says whether an area is registered.
func (s *scratch) tracked(pm *pagemap.File, area span) bool {
	q := registeredQuery()
	q.Start, q.End = area.start, area.end
	n, _, err := pm.Scan(q, make([]pagemap.Region, 1))
	return err == nil && n > 0
}

// TestRoundsCopyExactlyWhatTheFrozenProcessesHave is what this package is for.
func TestRoundsCopyExactlyWhatTheFrozenProcessesHave(t *testing.T) {
	seeds := []uint64{1, 2, 3, 4, 5, 6}
	if s := os.Getenv("GODWIT_TRACK_SEEDS"); s != "" { // "from-to"
		from, to, _ := strings.Cut(s, "-")
		a, _ := strconv.ParseUint(from, 10, 64)
		b, _ := strconv.ParseUint(to, 10, 64)
		seeds = nil
		for ; a <= b; a++ {
			seeds = append(seeds, a)
		}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, seed))
			threads, children := rng.IntN(4), rng.IntN(4)
			p := start(t, "mutate", fmt.Sprint(seed), fmt.Sprint(threads), fmt.Sprint(children))
			t.Cleanup(func() { killTree(t, p.pid) })
			tr := New(itself(p))
			defer tr.Close()
			c := copies{}
			var total, fresh uint64
			rounds := 2 + rng.IntN(8)
			for range rounds {
				time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
				r, err := tr.Collect(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				total += r.Pages
				fresh += uint64(r.New)
				c.take(t, r)
			}
			time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			for range 1 + rng.IntN(3) {
				freeze(t, p.pid)
				r, err := tr.CollectFrozen(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				// What a round that is not used reports, the next one reports too.
				if rng.IntN(2) == 0 {
					c.take(t, r)
					procs, _ := tree(p.pid)
					pages := c.compare(t, procs)
					t.Logf("%d threads, %d children: %d rounds, %d pages, %d armed; last %d pages in %v of %d, %d processes, %d untracked",
						threads, children, rounds, total, fresh, r.Pages, r.Took, pages, len(procs), r.Untracked)
				}
				thaw(p.pid)
				if r, err = tr.Collect(context.Background()); err != nil {
					t.Fatal(err)
				}
				c.take(t, r)
				time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
			}
			freeze(t, p.pid)
			r, err := tr.CollectFrozen(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			c.take(t, r)
			procs, _ := tree(p.pid)
			if pages := c.compare(t, procs); pages == 0 {
				t.Error("nothing was compared")
			}
		})
	}
}
