package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"godwit.dev/godwit/filetree"
)

// data is a batch of records of some size.
func data(t testing.TB, size int) []byte {
	records := []filetree.Record{{Type: filetree.TypeFile, Path: "f", Size: int64(size), Meta: filetree.Meta{Mode: 0o600}}}
	for at := 0; at < size; {
		n := min(size-at, 64<<10)
		records = append(records, filetree.Record{Type: filetree.TypeData, Offset: int64(at), Data: bytes.Repeat([]byte{byte(at >> 16)}, n)})
		at += n
	}
	return encode(t, records...)
}

func TestWhatCameAndWhatComesMeanwhileIsDrainedInItsOrder(t *testing.T) {
	s := newSpool(t, 1, 2)
	var want, got []byte
	add := func(b []byte) {
		if err := s.Append(1, b); err != nil {
			t.Fatal(err)
		}
		want = append(want, b...)
	}
	for range 5 { // more than is handed over in one go
		add(data(t, lastPart/4))
	}
	if err := s.Append(2, encode(t, dir("another"))); err != nil {
		t.Fatal(err)
	}
	more := 0
	err := s.Drain(1, func(b []byte) error {
		got = append(got, b...)
		if more++; more <= 3 { // while it takes in still
			add(encode(t, dir(fmt.Sprintf("d%d", more))))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, not the %d that were kept", len(got), len(want))
	}
	if err := s.Append(1, encode(t, end)); !errors.Is(err, ErrDrained) {
		t.Errorf("records of a tree that is filled: %v", err)
	}
	if _, err := os.Stat(path(s.dir, 1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was handed over is still on the disk: %v", err)
	}
	if s.written != uint64(len(encode(t, dir("another")))) {
		t.Errorf("%d bytes count as written", s.written)
	}
	if err := s.Append(2, encode(t, end)); err != nil {
		t.Errorf("the other channel: %v", err)
	}
}

func TestADrainThatFailsLeavesTheSpoolAsItIs(t *testing.T) {
	s := newSpool(t, 1)
	if err := s.Append(1, encode(t, dir("a"))); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room")
	if err := s.Drain(1, func([]byte) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
	if err := s.Append(1, encode(t, end)); err != nil {
		t.Error(err)
	}
	if err := s.Drain(2, func([]byte) error { return nil }); !errors.Is(err, ErrChannel) {
		t.Errorf("of no tree: %v", err)
	}
}
