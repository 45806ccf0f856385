package lazy

import (
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/store"
)

func TestThePartWithTheMostFaultsIsTheHottestUntilItIsCooled(t *testing.T) {
	const pages = 10*partPages - 1
	var h heat
	if _, _, ok := h.hottest(); ok {
		t.Fatal("one is hot without a fault")
	}
	fault := func(part, times int) {
		for i := range times {
			if got, want := h.add(uint64(part*partPages+i), pages), h.faults[part] >= hotFaults; got != want {
				t.Errorf("part %d is hot after %d faults: %v", part, h.faults[part], got)
			}
		}
	}
	fault(3, hotFaults-1)
	if _, _, ok := h.hottest(); ok {
		t.Fatalf("%d faults make a part hot", hotFaults-1)
	}
	fault(3, 1)
	fault(9, hotFaults+5)
	fault(4, hotFaults+2)
	for _, want := range []uint64{9, 4, 3} {
		for range 2 {
			if first, end, ok := h.hottest(); !ok || first != want*partPages || end != first+partPages {
				t.Errorf("the hottest is %d to %d, %v; not part %d", first, end, ok, want)
			}
			fault(3, 20) // the one that is worked at stays
		}
		h.cool()
		if want == 9 {
			h.faults[3] = hotFaults
		}
	}
	if _, _, ok := h.hottest(); ok {
		t.Error("one is hot when all are cooled")
	}
	fault(9, hotFaults)
	if first, _, ok := h.hottest(); !ok || first != 9*partPages {
		t.Error("one that was cooled is not hot again")
	}
}

// Where most faults are all is filled in first, then what is near a single one, then the rest.
func TestTheHottestPartIsFilledInBeforeWhatIsNearFaultsAndThatBeforeTheRest(t *testing.T) {
	const pages = 8 * partPages
	dir := sealedStore(t, 1, pages, false)
	reader, err := store.OpenSealed(dir)
	must(t, err)
	defer reader.Close()
	uffd := registered(t, pages)
	b, _ := standing(t, false)
	s := b.s
	s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal")}
	must(t, s.load())
	for _, m := range []message{{kind: readyMsg, id: 1}, {kind: memoryMsg, id: 1, pid: 1}, {kind: finishedMsg}, {kind: releasedMsg}} {
		fd := -1
		if m.kind == memoryMsg {
			fd = uffd
		}
		must(t, s.heard(m, fd))
	}
	m := s.memories[1]
	src := m.source
	fault := func(page uint64) {
		t.Helper()
		must(t, s.serve(m, src.address(page)))
		if !m.done.has(page) {
			t.Fatalf("page %d was faulted on and is not there", page)
		}
	}
	fault(5*partPages + 100)
	for i := range uint64(hotFaults) {
		fault(2*partPages + 100 + i*70)
	}
	there := func(part uint64) (n int) {
		for page := part * partPages; page < (part+1)*partPages; page++ {
			if m.done.has(page) {
				n++
			}
		}
		return n
	}
	for there(2) < partPages {
		if there(5) > 1 {
			t.Fatal("what is near a single fault goes before where most are")
		}
		s.pause = time.Time{}
		if _, worked, err := s.fill(); !worked || err != nil {
			t.Fatalf("the hottest part is not filled in: %v, %v", worked, err)
		}
	}
	for len(m.near) > 0 {
		s.pause = time.Time{}
		if _, worked, err := s.fill(); !worked || err != nil {
			t.Fatalf("what is near a fault is not filled in: %v, %v", worked, err)
		}
	}
	if n := there(5); n < 2 || n > nearBytes/pageSize+batchPages {
		t.Errorf("%d pages are filled in near a single fault", n)
	}
}

func TestTheBackgroundRestsOnlyWhileProcessesFault(t *testing.T) {
	var h haste
	now := time.Unix(1000, 0)
	step := burstFor / 4
	work := func(times int) (rested int) {
		for range times {
			d := h.work(now, now.Add(step))
			now = now.Add(step + d)
			if d > 0 {
				rested++
			}
		}
		return rested
	}
	if h.is(now) || work(100) != 0 {
		t.Error("it rests without a fault")
	}
	h.fault(now)
	if got := work(16); !h.is(now) || got != 4 {
		t.Errorf("it rests %d times in %v of work", got, 16*step)
	}
	now = now.Add(faultsFor)
	if h.is(now) || work(100) != 0 {
		t.Error("it rests long after the last fault")
	}
}

// What the server does is urgent at first, and again when a process faults.
func TestAFaultMakesTheServerUrgent(t *testing.T) {
	dir := sealedStore(t, 1, 100, false)
	reader, err := store.OpenSealed(dir)
	must(t, err)
	defer reader.Close()
	uffd := registered(t, 100)
	b, _ := standing(t, false)
	s := b.s
	var said []bool
	s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal"), Urgent: func(is bool) { said = append(said, is) }}
	s.prioritise(true)
	must(t, s.load())
	for _, m := range []message{{kind: readyMsg, id: 1}, {kind: memoryMsg, id: 1, pid: 1}, {kind: finishedMsg}, {kind: releasedMsg}} {
		fd := -1
		if m.kind == memoryMsg {
			fd = uffd
		}
		must(t, s.heard(m, fd))
	}
	_, _, err = s.fill()
	must(t, err)
	if len(said) != 2 || !said[0] || said[1] {
		t.Fatalf("with no faults it said %v", said)
	}
	m := s.memories[1]
	must(t, s.serve(m, m.source.address(50)))
	if s.haste.faulted.IsZero() {
		t.Fatal("the fault is not noted")
	}
	s.haste.faulted = time.Now().Add(time.Hour) // it is now, however long this took
	_, _, err = s.fill()
	must(t, err)
	if len(said) != 3 || !said[2] {
		t.Fatalf("right after a fault it had said %v", said)
	}
}

// A process that faults all the time does not keep the store from giving back what is in place.
func TestTheStoreGivesBackThoughFaultsKeepTheServerBusy(t *testing.T) {
	dir := sealedStore(t, 1, partPages, false)
	reader, err := store.OpenSealed(dir)
	must(t, err)
	defer reader.Close()
	uffd := registered(t, partPages)
	b, _ := standing(t, false)
	s := b.s
	s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal")}
	must(t, s.load())
	for _, m := range []message{{kind: readyMsg, id: 1}, {kind: memoryMsg, id: 1, pid: 1}, {kind: finishedMsg}, {kind: releasedMsg}} {
		fd := -1
		if m.kind == memoryMsg {
			fd = uffd
		}
		must(t, s.heard(m, fd))
	}
	m := s.memories[1]
	must(t, s.serve(m, m.source.address(50)))
	_, _, err = s.fill()
	must(t, err)
	if len(m.near) == 0 || !s.released {
		t.Errorf("%d neighbourhoods are still to be filled in, the store gives back: %v", len(m.near), s.released)
	}
}
