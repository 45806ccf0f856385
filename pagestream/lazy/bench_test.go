package lazy

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkFill fills in 1 GiB of a process that sleeps.
func BenchmarkFill(b *testing.B) {
	const pages = 1 << 18
	for _, inside := range []bool{false, true} {
		b.Run(fmt.Sprint("inside=", inside), func(b *testing.B) {
			var took, cpu time.Duration
			for range b.N {
				l := newLab(b, sealedStore(b, 1, pages, true), inside)
				must(b, l.run(b, 1, pages, 0, 0, 0))
				took += l.keeper.Progress().Fill
				if !inside {
					cpu += l.cmd.ProcessState.SystemTime() + l.cmd.ProcessState.UserTime()
				}
			}
			if !inside {
				// What a core of its own would take, however loaded the machine is.
				b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/GiB")
			}
			b.ReportMetric(float64(b.N)*pages*pageSize/1e9/took.Seconds(), "GB/s")
			b.ReportMetric(took.Seconds()/float64(b.N), "s/GiB")
		})
	}
}

// BenchmarkFault touches pages at random while the background is slow, at full speed,
// and from four threads.
func BenchmarkFault(b *testing.B) {
	const pages = 1 << 17
	for _, c := range []struct {
		name    string
		rate    uint64
		threads int
	}{{"slow background", 1 << 20, 1}, {"full background", 0, 1}, {"four threads", 1 << 20, 4}} {
		b.Run(c.name, func(b *testing.B) {
			var p50, p99, worst float64
			for range b.N {
				l := newLab(b, sealedStore(b, 1, pages, true), false)
				l.rate, l.breakOff = c.rate, true
				_ = l.run(b, 1, pages, c.threads, -5000, 1)
				var n int
				var a, z, w float64
				if _, err := fmt.Sscan(l.out.String(), &n, &a, &z, &w); err != nil {
					b.Fatal(err)
				}
				p50, p99, worst = p50+a, p99+z, max(worst, w)
			}
			b.ReportMetric(p50/float64(b.N)/1e3, "p50-us")
			b.ReportMetric(p99/float64(b.N)/1e3, "p99-us")
			b.ReportMetric(worst/1e3, "max-us")
		})
	}
}
