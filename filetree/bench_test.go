package filetree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// manyFiles makes dirs directories of files of size bytes.
func manyFiles(b *testing.B, root string, dirs, files, size int) {
	b.Helper()
	content := randomBytes(size)
	for d := range dirs {
		dir := filepath.Join(root, fmt.Sprintf("dir%03d", d))
		must(b, os.MkdirAll(dir, 0o755))
		for f := range files {
			must(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%05d", f)), content, 0o644))
		}
	}
}

// cpuTime reports what the benchmark's operations cost, which other load on the machine does not change as it does their time.
func cpuTime(b *testing.B) func() {
	var start, end unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &start))
	return func() {
		must(b, unix.Getrusage(unix.RUSAGE_SELF, &end))
		ns := end.Utime.Nano() - start.Utime.Nano() + end.Stime.Nano() - start.Stime.Nano()
		b.ReportMetric(float64(ns)/1e6/float64(b.N), "cpu-ms/op")
	}
}

func discard(Record) error { return nil }

// BenchmarkFrozenSyncUnchanged is the time added to the downtime by files that did not change.
func BenchmarkFrozenSyncUnchanged(b *testing.B) {
	for _, shape := range []struct{ dirs, files int }{{100, 100}, {1, 10000}, {1000, 10}} {
		b.Run(fmt.Sprintf("%ddirs_%dfiles", shape.dirs, shape.files), func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, shape.dirs, shape.files, 100)
			settle()
			src, err := NewSource(root, Upper, Options{})
			must(b, err)
			defer src.Close()
			_, err = src.Sync(context.Background(), discard)
			must(b, err)
			report := cpuTime(b)
			for b.Loop() {
				_, err := src.SyncFrozen(context.Background(), Mapped{}, discard)
				must(b, err)
			}
			report()
		})
	}
}

// BenchmarkFrozenSyncMapped compares a mapped file of 256 MiB of which one block changed.
func BenchmarkFrozenSyncMapped(b *testing.B) {
	const size = 256 << 20
	root := b.TempDir()
	must(b, os.WriteFile(filepath.Join(root, "f"), randomBytes(size), 0o644))
	settle()
	src, err := NewSource(root, Plain, Options{})
	must(b, err)
	defer src.Close()
	_, err = src.Sync(context.Background(), discard)
	must(b, err)
	b.SetBytes(size)
	report := cpuTime(b)
	for b.Loop() {
		_, err := src.SyncFrozen(context.Background(), Mapped{Paths: []string{"f"}}, discard)
		must(b, err)
	}
	report()
}

// BenchmarkFirstSync sends 10,000 small files, or one of 256 MiB, to nobody.
func BenchmarkFirstSync(b *testing.B) {
	for _, shape := range []struct {
		name              string
		dirs, files, size int
	}{{"small", 100, 100, 4000}, {"large", 1, 1, 256 << 20}} {
		b.Run(shape.name, func(b *testing.B) {
			root := b.TempDir()
			manyFiles(b, root, shape.dirs, shape.files, shape.size)
			b.SetBytes(int64(shape.dirs * shape.files * shape.size))
			b.ReportAllocs()
			report := cpuTime(b)
			for b.Loop() {
				src, err := NewSource(root, Plain, Options{})
				must(b, err)
				_, err = src.Sync(context.Background(), discard)
				must(b, err)
				must(b, src.Close())
			}
			report()
		})
	}
}

// BenchmarkCopy sends and applies, onto an overlay.
func BenchmarkCopy(b *testing.B) {
	for _, shape := range []struct {
		name              string
		dirs, files, size int
	}{{"small", 100, 100, 4000}, {"large", 1, 1, 256 << 20}} {
		b.Run(shape.name, func(b *testing.B) {
			root, lower := b.TempDir(), b.TempDir()
			manyFiles(b, root, shape.dirs, shape.files, shape.size)
			b.SetBytes(int64(shape.dirs * shape.files * shape.size))
			report := cpuTime(b)
			for b.Loop() {
				b.StopTimer()
				to := mountOverlay(b, lower, "")
				src, err := NewSource(root, Upper, Options{})
				must(b, err)
				dst, err := NewApplier(to.merged, ApplyOptions{})
				must(b, err)
				b.StartTimer()
				_, err = src.Sync(context.Background(), dst.Apply)
				must(b, err)
				b.StopTimer()
				must(b, src.Close())
				must(b, dst.Close())
				b.StartTimer()
			}
			report()
		})
	}
}
