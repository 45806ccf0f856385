package lazy

import (
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// tell writes events where a userfaultfd's would be read from: the far end of a pipe.
func tell(t *testing.T, events ...event) int {
	t.Helper()
	var p [2]int
	must(t, unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK))
	t.Cleanup(func() { unix.Close(p[0]) })
	defer unix.Close(p[1])
	for _, e := range events {
		if _, err := unix.Write(p[1], encodeEvent(e)); err != nil {
			t.Fatal(err)
		}
	}
	return p[0]
}

func TestJournalKeepsEventsAndUsesSlotsOfFaultsAgain(t *testing.T) {
	dir := t.TempDir()
	snap := snapshot{id: 7, pid: 42, forks: 3, windows: []window{{0x1000, 0x5000, 0x1000}, {0x9000, 0xa000, 0x8000}}}
	j, err := newJournal(dir, snap, 1)
	must(t, err)
	remove := event{eventRemove, 0x1000, 0x2000, 0}
	remap := event{eventRemap, 0x3000, 0x9000, 0x1000}
	fault := event{eventFault, 0, 0x1234, 0}
	read := func(events ...event) {
		t.Helper()
		batch, errno := j.read(tell(t, events...))
		if errno != 0 || len(batch) != len(events)*msgSize {
			t.Fatalf("read %d bytes: %v", len(batch), errno)
		}
	}
	for range 3 * slots {
		read(fault, fault, fault)
	}
	if j.next != 1 {
		t.Fatalf("faults have used %d slots", j.next)
	}
	read(fault, remove, fault, fault)
	read(fault)
	read(remap)
	must(t, j.close())

	j, got, events, err := openJournal(dir, 7)
	must(t, err)
	if got.id != 7 || got.pid != 42 || got.forks != 3 || !slices.Equal(got.windows, snap.windows) {
		t.Fatalf("snapshot %+v", got)
	}
	if want := []event{{eventServer, 1, 0, 0}, remove, remap}; !slices.Equal(events, want) {
		t.Fatalf("events %+v, want %+v", events, want)
	}
	j.readBy(2)
	read(event{eventFork, 17, 0, 0})
	for !j.full() {
		read(slices.Repeat([]event{remove}, readBatch)...)
	}
	must(t, j.close())
	j, _, events, err = openJournal(dir, 7)
	must(t, err)
	if events[3] != (event{eventServer, 2, 0, 0}) || events[4].child() != 17 {
		t.Fatalf("events %+v", events[:5])
	}
	must(t, j.remove())
	if _, _, _, err := openJournal(dir, 7); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a removed journal: %v", err)
	}
}

func TestJournalRejectsWhatNoServerWrote(t *testing.T) {
	good := snapshot{id: 1, pid: 1, windows: []window{{0x1000, 0x5000, 0x1000}}}.encode()
	if _, _, _, err := decodeJournal(good); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"nothing":       nil,
		"cut":           good[:len(good)-1],
		"flipped":       func() []byte { b := slices.Clone(good); b[journalHeader] ^= 1; return b }(),
		"overlap":       snapshot{id: 1, windows: []window{{0x1000, 0x5000, 0x1000}, {0x4000, 0x6000, 0x9000}}}.encode(),
		"image overlap": snapshot{id: 1, windows: []window{{0x1000, 0x5000, 0x1000}, {0x6000, 0x7000, 0x2000}}}.encode(),
		"off a page":    snapshot{id: 1, windows: []window{{0x1001, 0x5001, 0x1000}}}.encode(),
		"unknown event": func() []byte { b := slices.Clone(good); b[len(b)-msgSize] = 99; return b }(),
	} {
		if _, _, _, err := decodeJournal(b); !errors.Is(err, ErrJournal) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add(snapshot{id: 1, pid: 1, windows: []window{{0x1000, 0x5000, 0x1000}}}.encode(), []byte{2, 3, 9, 0})
	f.Add(snapshot{}.encode(), []byte{})
	f.Fuzz(func(t *testing.T, b, more []byte) {
		for i, e := range eventsOf(more) {
			if at := len(b) - slotsSize + i*msgSize; at >= 0 && i < slots {
				copy(b[at:], encodeEvent(e))
			}
		}
		s, events, used, err := decodeJournal(b)
		if err != nil {
			if !errors.Is(err, ErrJournal) {
				t.Fatalf("error without ErrJournal: %v", err)
			}
			return
		}
		if used > slots || len(events) > used {
			t.Fatalf("%d events in %d slots", len(events), used)
		}
		tr := newTranslation(s.windows)
		for _, e := range events {
			tr.apply(e)
		}
		if err := validWindows(tr.byAddr); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add(message{kind: forkedMsg, id: 1 << 32, parent: 1, pid: 7}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			if !errors.Is(err, errMessage) {
				t.Fatalf("error without errMessage: %v", err)
			}
			return
		}
		if again, err := decodeMessage(m.encode()); err != nil || again != m {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
