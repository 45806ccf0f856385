// Command record writes down which pages running processes write, interval by interval,
// as a trace for the bench. It tracks them as a migration does, with their children.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/test/bench/traces"
)

func main() {
	pids := flag.String("pids", "", "processes to record with their children, with commas")
	interval := flag.Duration("interval", 50*time.Millisecond, "time between two looks")
	length := flag.Duration("for", 20*time.Second, "how long to record")
	out := flag.String("out", "", "file for the trace")
	flag.Parse()
	if err := record(*pids, *interval, *length, *out); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(pids string, interval, length time.Duration, out string) error {
	var roots []int
	for _, s := range strings.Split(pids, ",") {
		pid, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("process id %q: %w", s, err)
		}
		roots = append(roots, pid)
	}
	tracker := track.New(track.Options{List: func() ([]track.Process, error) { return tree(roots), nil }, Inject: track.Inject})
	defer tracker.Close()
	looks, err := watch(tracker, interval, length)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	t := number(looks)
	t.Name, t.Interval = out, interval
	if err := t.Write(f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	written := uint64(0)
	for _, runs := range t.Dirty {
		for _, r := range runs {
			written += r.Pages
		}
	}
	fmt.Printf("%s: %d pages, %d intervals of %v, %.0f pages written in each, %d bytes\n",
		out, t.Pages, len(t.Dirty), interval, float64(written)/float64(len(t.Dirty)), info.Size())
	return f.Close()
}

// tree is the processes of roots with all that descend from them.
func tree(roots []int) []track.Process {
	var all []track.Process
	for at := 0; at < len(roots); at++ {
		pid := roots[at]
		all = append(all, track.Process{PID: pid, Space: pagestream.Space{Kind: pagestream.Process, ID: uint64(pid)}})
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, task := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, task.Name()))
			if err != nil {
				continue // it has ended
			}
			for _, s := range strings.Fields(string(text)) {
				if child, err := strconv.Atoi(s); err == nil && !slices.Contains(roots, child) {
					roots = append(roots, child)
				}
			}
		}
	}
	return all
}

// watch collects at each interval; the first look is all memory.
func watch(tracker *track.Tracker, interval, length time.Duration) ([]track.Round, error) {
	first, err := tracker.Collect(context.Background())
	if err != nil {
		return nil, err
	}
	looks := []track.Round{first}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for range int(length / interval) {
		<-ticker.C
		look, err := tracker.Collect(context.Background())
		if err != nil {
			return nil, err
		}
		looks = append(looks, look)
	}
	return looks, nil
}

// page is one of one process.
type page struct {
	space   pagestream.Space
	address uint64
}

// number makes a trace of looks, of which the first found everything.
func number(looks []track.Round) *traces.Trace {
	numbers := make(map[page]uint64)
	var all []page
	each := func(look track.Round, do func(page)) {
		for _, p := range look.Processes {
			for _, r := range p.Dirty {
				for a := r.Start; a < r.End(); a += pagestream.PageSize {
					do(page{p.Space, a})
				}
			}
		}
	}
	for _, look := range looks {
		each(look, func(p page) {
			if _, ok := numbers[p]; !ok {
				numbers[p] = 0
				all = append(all, p)
			}
		})
	}
	slices.SortFunc(all, func(a, b page) int {
		if a.space.ID != b.space.ID {
			return int(a.space.ID) - int(b.space.ID)
		}
		if a.address < b.address {
			return -1
		}
		return 1
	})
	for i, p := range all {
		numbers[p] = uint64(i)
	}
	t := &traces.Trace{Pages: uint64(len(all))}
	for _, look := range looks[1:] {
		var found []uint64
		each(look, func(p page) { found = append(found, numbers[p]) })
		slices.Sort(found)
		var runs []traces.Run
		for _, n := range found {
			if k := len(runs); k > 0 && runs[k-1].First+runs[k-1].Pages == n {
				runs[k-1].Pages++
			} else {
				runs = append(runs, traces.Run{First: n, Pages: 1})
			}
		}
		t.Dirty = append(t.Dirty, runs)
	}
	return t
}
