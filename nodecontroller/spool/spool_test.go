package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/filetree"
)

func encode(t testing.TB, records ...filetree.Record) []byte {
	t.Helper()
	var b []byte
	for _, r := range records {
		var err error
		if b, err = filetree.AppendRecord(b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func dir(name string) filetree.Record {
	return filetree.Record{Type: filetree.TypeDir, Path: name, Meta: filetree.Meta{Mode: 0o755}}
}

var (
	end    = filetree.Record{Type: filetree.TypeEnd, Sync: 1}
	frozen = filetree.Record{Type: filetree.TypeEnd, Sync: 2, Frozen: true}
)

func newSpool(t testing.TB, channels ...uint32) *Spool {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "spool", "m-1"), channels)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestWhatCameIsReplayedInItsOrderAsOftenAsAsked(t *testing.T) {
	s := newSpool(t, 1, 2)
	want := map[uint32][]byte{}
	for i := range 50 {
		for _, channel := range []uint32{1, 2} {
			b := encode(t, dir(fmt.Sprintf("d%d-%d", channel, i)))
			if err := s.Append(channel, b); err != nil {
				t.Fatal(err)
			}
			want[channel] = append(want[channel], b...)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := map[uint32][]byte{}
		if err := Replay(s.dir, func(channel uint32, b []byte) error {
			got[channel] = append(got[channel], b...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for channel := range want {
			if !bytes.Equal(got[channel], want[channel]) {
				t.Errorf("channel %d: %d bytes came back, not the %d that came", channel, len(got[channel]), len(want[channel]))
			}
		}
	}
}

func TestASpoolIsCompleteWhenEachTreeEndsFrozen(t *testing.T) {
	for _, k := range []struct {
		name string
		send map[uint32][]filetree.Record
		want error
	}{
		{"nothing came", nil, ErrIncomplete},
		{"the required one ended", map[uint32][]filetree.Record{1: {dir("a"), frozen}}, nil},
		{"it ended twice", map[uint32][]filetree.Record{1: {frozen, dir("a"), frozen}}, nil},
		{"it ended while the pod ran", map[uint32][]filetree.Record{1: {dir("a"), end}}, ErrIncomplete},
		{"something came after the end", map[uint32][]filetree.Record{1: {frozen, dir("a")}}, ErrIncomplete},
		{"another did not end", map[uint32][]filetree.Record{1: {frozen}, 2: {dir("a")}}, ErrIncomplete},
		{"both ended", map[uint32][]filetree.Record{1: {frozen}, 2: {dir("a"), frozen}}, nil},
	} {
		s := newSpool(t, 1, 2)
		for channel, records := range k.send {
			for _, r := range records {
				if err := s.Append(channel, encode(t, r)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Complete(1); !errors.Is(err, k.want) {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

func TestWhatIsNoRecordOrOfNoTreeIsRefused(t *testing.T) {
	s := newSpool(t, 1)
	if err := s.Append(2, encode(t, end)); !errors.Is(err, ErrChannel) {
		t.Errorf("another channel: %v", err)
	}
	if err := s.Append(1, []byte("rubbish")); !errors.Is(err, filetree.ErrRecord) {
		t.Errorf("rubbish: %v", err)
	}
	if err := s.Append(1, append(encode(t, end), 1)); !errors.Is(err, filetree.ErrRecord) {
		t.Errorf("rubbish behind a record: %v", err)
	}
	if err := s.Append(1, make([]byte, maxBatch+1)); !errors.Is(err, filetree.ErrRecord) {
		t.Errorf("too much at once: %v", err)
	}
	if err := Replay(s.dir, func(uint32, []byte) error { return errors.New("something was kept") }); err != nil {
		t.Error(err)
	}
}

func TestADiskThatCouldNotTakeTheTreesAsWellTakesNoMore(t *testing.T) {
	s := newSpool(t, 1)
	one := encode(t, dir("a"))
	free := uint64(reserve + 3*len(one))
	s.free = func(string) (uint64, error) { return free, nil }
	if err := s.Append(1, one); err != nil {
		t.Fatal(err)
	}
	free -= uint64(len(one))
	if err := s.Append(1, one); !errors.Is(err, ErrRoom) {
		t.Errorf("with room for one more, and not for the trees: %v", err)
	}
}

func TestADamagedSpoolIsNotReplayed(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"a bit":        func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"a length":     func(b []byte) []byte { b[3] = 0xff; return b },
		"its end":      func(b []byte) []byte { return b[:len(b)-1] },
		"a header cut": func(b []byte) []byte { return append(b, 1, 2) },
	} {
		s := newSpool(t, 1)
		if err := s.Append(1, encode(t, dir("a"), frozen)); err != nil {
			t.Fatal(err)
		}
		file := path(s.dir, 1)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, damage(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Replay(s.dir, func(uint32, []byte) error { return nil }); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAClosedSpoolTakesNothing(t *testing.T) {
	s := newSpool(t, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(1, encode(t, end)); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func FuzzReplay(f *testing.F) {
	s := newSpool(f, 1)
	if err := s.Append(1, encode(f, dir("a"), frozen)); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path(s.dir, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var batch []byte
		in := bytes.NewReader(b)
		for {
			var err error
			if batch, err = next(in, batch); err != nil {
				return
			}
			if len(batch) > len(b) {
				t.Fatalf("%d bytes from %d", len(batch), len(b))
			}
		}
	})
}
