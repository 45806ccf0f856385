package track

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// TestDirectReadsUnderWayAreCopied: a device writes to pages that were given to
// it before a round, after that round's copy.
func TestDirectReadsUnderWayAreCopied(t *testing.T) {
	needsUffd(t)
	path := filepath.Join(t.TempDir(), "blocks")
	rng := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 32<<20)
	rng.Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Skip("no O_DIRECT here: ", err)
	}
	unix.Close(fd)
	targets := 3
	if n, err := strconv.Atoi(os.Getenv("GODWIT_TRACK_DIRECT_TARGETS")); err == nil {
		targets = n
	}
	for range targets {
		p := start(t, "direct", path, "8")
		k := trackWith(t, p, itself(p))
		for range 10 {
			time.Sleep(time.Millisecond)
			k.round()
		}
		freeze(t, p.pid)
		r, err := k.tr.CollectFrozen(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		k.c.take(t, r)
		procs, _ := tree(p.pid)
		k.c.compare(t, procs)
		p.cmd.Process.Kill()
		k.tr.Close()
	}
}

func TestReadsAreTakenForWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		text string
		nr   int
		buf  uint64
		ok   bool
	}{
		{"17 0x3 0x7f0000001000 0x40000 0x80000 0x0 0x0 0x7ffd00000000 0x7f1111111111\n", 17, 0x7f0000001000, true},
		{"-1 0x7ffd00000000 0x7f1111111111\n", 0, 0, false},
		{"running\n", 0, 0, false},
		{"", 0, 0, false},
		{"0 0x0 zz 0x0 0x0 0x0 0x0 0x0 0x0\n", 0, 0, false},
		{"99999999999999999999 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n", 0, 0, false},
	} {
		got, ok := parseSyscall(c.text)
		if ok != c.ok || ok && (got.nr != c.nr || got.args[1] != c.buf) {
			t.Errorf("%q: %+v %v", c.text, got, ok)
		}
	}
	var r reader
	r.add(0x1ff0, 0x20)
	r.add(0x5000, 0)
	r.add(^uint64(0), 5)
	r.add(0x5000, ^uint64(0))
	if want := []pagestream.Range{{Start: 0x1000, Pages: 2}}; !slices.Equal(r.buffers, want) {
		t.Errorf("buffers %v, want %v", r.buffers, want)
	}
}

func FuzzParseSyscall(f *testing.F) {
	f.Add("17 0x3 0x7f0000001000 0x40000 0x80000 0x0 0x0 0x7ffd00000000 0x7f1111111111\n")
	f.Add("-1 0x7ffd00000000 0x7f1111111111\n")
	f.Add("running\n")
	f.Fuzz(func(t *testing.T, text string) {
		call, ok := parseSyscall(text)
		if !ok {
			return
		}
		var r reader
		r.add(call.args[1], call.args[2])
		for _, b := range r.buffers {
			if err := b.Valid(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
