package wire

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// mapped is a receiver that copies pages into mapped memory, as a store does.
type mapped struct{ memory []byte }

func newMapped(b *testing.B, size int) *mapped {
	m := &mapped{memory: mmap(b, size)}
	for at := 0; at < size; at += pagestream.PageSize {
		m.memory[at] = 1 // fault it in: what is measured is the wire
	}
	return m
}

func mmap(b *testing.B, size int) []byte {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Munmap(memory) })
	return memory
}

func (m *mapped) Pages(_ pagestream.Space, vaddr uint64, data []byte) error {
	copy(m.memory[vaddr:], data)
	return nil
}
func (m *mapped) Stored(_ pagestream.Space, vaddr uint64, data []byte) error {
	copy(data, m.memory[vaddr:])
	return nil
}
func (m *mapped) Zero(pagestream.Space, uint64, uint64) error { return nil }
func (m *mapped) Blob(uint32, []byte) error                   { return nil }
func (m *mapped) Closed(error)                                {}

// fillText writes what compresses to about a third.
func fillText(p []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 512)
	for i := range words {
		words[i] = fmt.Sprintf("%x ", rng.Uint64N(1<<(8+4*rng.UintN(10))))
	}
	for len(p) > 0 {
		p = p[copy(p, words[rng.UintN(512)]):]
	}
}

func fillRandom(p []byte) {
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(p)
}

// BenchmarkSession copies memory from one mapping to another by way of
// loopback TCP and TLS; sender and receiver share the machine's cores.
func BenchmarkSession(b *testing.B) {
	const size = 256 << 20
	kinds := []struct {
		name string
		fill func([]byte)
	}{
		{"random", fillRandom}, {"zero", func([]byte) {}}, {"text", fillText},
		{"halfzero", func(p []byte) {
			for at := 0; at < len(p); at += 2 * pagestream.PageSize {
				fillRandom(p[at : at+pagestream.PageSize])
			}
		}},
	}
	for _, kind := range kinds {
		memory := mmap(b, size)
		kind.fill(memory)
		for _, streams := range []int{1, 2, 4} {
			for _, compression := range []Compression{Auto, NoCompression, LZ4, Zstd} {
				b.Run(fmt.Sprintf("%s/streams=%d/%s", kind.name, streams, compression), func(b *testing.B) {
					benchmarkSession(b, memory, streams, compression)
				})
			}
		}
	}
}

func benchmarkSession(b *testing.B, memory []byte, streams int, compression Compression) {
	c := newCluster(b)
	l := c.listen(to(newMapped(b, len(memory))))
	o := c.options(l.Addr())
	o.Streams, o.Compression = streams, compression
	s := c.dial(o)
	b.SetBytes(int64(len(memory)))
	before := cpuTime(b)
	for b.Loop() {
		sendAll(b, s, memory)
	}
	stats := s.Stats()
	total := float64(b.N) * float64(len(memory))
	b.ReportMetric(total/b.Elapsed().Seconds()/1e9, "GB/s")
	b.ReportMetric((cpuTime(b)-before)/total*1e9, "cpu-s/GB")
	b.ReportMetric(float64(stats.WireBytes)/total, "wire/raw")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLinks shows how the choice of codecs does against each fixed one, over links of 200 Mbit/s, 1
// Gbit/s and without a limit.
func BenchmarkLinks(b *testing.B) {
	const size = 64 << 20
	for name, fill := range map[string]func([]byte){"random": fillRandom, "text": fillText} {
		memory := mmap(b, size)
		fill(memory)
		for _, link := range []int64{25e6, 125e6, 0} {
			for _, compression := range []Compression{Auto, NoCompression, LZ4, Zstd} {
				b.Run(fmt.Sprintf("%s/%dMB/%s", name, link/1e6, compression), func(b *testing.B) {
					benchmarkLink(b, memory, compression, link)
				})
			}
		}
	}
}

func benchmarkLink(b *testing.B, memory []byte, compression Compression, link int64) {
	c := newCluster(b)
	o := c.options(c.listen(to(newMapped(b, len(memory)))).Addr())
	o.Compression, o.Bandwidth = compression, link
	s := c.dial(o)
	b.SetBytes(int64(len(memory)))
	for b.Loop() {
		sendAll(b, s, memory)
	}
	b.ReportMetric(float64(s.Stats().WireBytes)/float64(b.N)/float64(len(memory)), "wire/raw")
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}

// cpuTime is what this process has used so far, in seconds: sender, receiver
// and their part of the kernel. Unlike the throughput it tells something on a
// machine that others use as well.
func cpuTime(b *testing.B) float64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// sendAll sends memory in calls of MaxData, the streams in turn, and waits
// until it is stored.
func sendAll(b *testing.B, s *Session, memory []byte) {
	var senders sync.WaitGroup
	for i := range s.Streams() {
		senders.Go(func() {
			for at := i * MaxData; at < len(memory); at += s.Streams() * MaxData {
				if err := s.Stream(i).Pages(space, uint64(at), memory[at:at+MaxData]); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	senders.Wait()
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkScattered sends single pages from all over, as a late round does.
func BenchmarkScattered(b *testing.B) {
	const pages = MaxData / pagestream.PageSize
	c := newCluster(b)
	l := c.listen(to(newMapped(b, 4*MaxData)))
	s := c.dial(c.options(l.Addr()))
	data := make([]byte, MaxData)
	fillRandom(data)
	runs := make([]pagestream.Range, pages)
	for i := range runs {
		runs[i] = pagestream.Range{Start: uint64(2 * i * pagestream.PageSize), Pages: 1}
	}
	b.SetBytes(MaxData)
	for b.Loop() {
		if err := s.Stream(0).Runs(space, runs, data); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Flush(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkHandshake makes and ends control connections.
func BenchmarkHandshake(b *testing.B) {
	c := newCluster(b)
	l := c.listen(to(newMemory()))
	accepted := make(chan net.Conn, 1)
	go func() {
		for {
			conn, err := l.Control().Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	for b.Loop() {
		conn, err := DialControl(context.Background(), l.Addr().String(), "b", c.node("a"))
		if err != nil {
			b.Fatal(err)
		}
		conn.(*tls.Conn).NetConn().Close()
		(<-accepted).Close()
	}
}

func BenchmarkZeroScan(b *testing.B) {
	for _, name := range []string{"zero", "random"} {
		data := make([]byte, MaxData)
		if name == "random" {
			fillRandom(data)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(MaxData)
			for b.Loop() {
				nextKind(data)
			}
		})
	}
}
