package track

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream/pagemap"
)

// BenchmarkCollect tracks 1.1 GB in 40 areas of which 5,000 pages are written
// between two rounds, as redis does under load.
func BenchmarkCollect(b *testing.B) {
	const areas, pages, written = 40, 7000, 5000
	p := start(b, "memory")
	var at []uint64
	for i := range areas {
		// A guard after each keeps the areas apart.
		a, _ := strconv.ParseUint(p.tell("map %x", pages+1), 16, 64)
		p.tell("prot %x 1 0", a+pages*page)
		p.tell("advise %x %x f", a, pages) // no huge pages
		p.tell("write %x %x %x", a, pages, i+1)
		at = append(at, a)
	}
	dirty := func(n int) {
		for i, a := range at {
			// runs of four pages
			for j := range written / areas / 4 {
				p.tell("write %x 4 %x", a+uint64((j*53+n*7+i)%(pages-4))*page, n+1)
			}
		}
	}
	opts := itself(p)
	collect := func(b *testing.B, tr *Tracker) Round {
		r, err := tr.Collect(context.Background())
		if err != nil {
			b.Fatal(err)
		}
		return r
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			tr := New(opts)
			r := collect(b, tr)
			b.StopTimer()
			b.ReportMetric(float64(r.Pages), "pages")
			b.ReportMetric(float64(r.Stops[0].Microseconds()), "stop-us")
			tr.Close()
			b.StartTimer()
		}
	})
	for _, mode := range []string{"later", "frozen"} {
		b.Run(mode, func(b *testing.B) {
			tr := New(opts)
			defer tr.Close()
			collect(b, tr)
			var pages, ranges float64
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				dirty(n)
				n++
				b.StartTimer()
				var r Round
				if mode == "later" {
					r = collect(b, tr)
				} else {
					var err error
					if r, err = tr.CollectFrozen(context.Background()); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					collect(b, tr) // protects again
					b.StartTimer()
				}
				pages += float64(r.Pages)
				ranges += float64(r.Ranges)
			}
			b.ReportMetric(pages/float64(b.N), "pages")
			b.ReportMetric(ranges/float64(b.N), "ranges")
		})
	}
	b.Run("close", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			tr := New(opts)
			collect(b, tr)
			b.StartTimer()
			tr.Close()
		}
	})
}

// BenchmarkReadMemory copies what a first round reports.
func BenchmarkReadMemory(b *testing.B) {
	p := start(b, "memory")
	a, _ := strconv.ParseUint(p.tell("map 20000"), 16, 64)
	p.tell("write %x 20000 7", a)
	tr := New(itself(p))
	defer tr.Close()
	r, err := tr.Collect(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	ranges := r.Processes[0].Dirty
	buf := make([]byte, r.Pages*page)
	pagemap.ReadMemory(p.pid, ranges, buf) // so that buf has its pages
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := pagemap.ReadMemory(p.pid, ranges, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkManyAreas tracks a process of 10,000 areas.
func BenchmarkManyAreas(b *testing.B) {
	p := start(b, "memory")
	a, _ := strconv.ParseUint(p.tell("map %x", 20000), 16, 64)
	p.tell("write %x %x 7", a, 20000)
	for i := range 10000 {
		p.tell("prot %x 1 1", a+uint64(2*i)*page)
	}
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	tr := New(itself(p))
	defer tr.Close()
	if _, err := tr.Collect(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Run("later", func(b *testing.B) {
		for b.Loop() {
			if _, err := tr.Collect(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("frozen", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tr.CollectFrozen(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Logf("%d areas", strings.Count(string(maps), "\n"))
}
