package lazy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// standing is a server that stands by, and the keeper's end of its connection.
func standing(t *testing.T, hold bool) (b *Standby, sock int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(pair[0]) })
	conn, err := ServerConn(pair[1])
	must(t, err)
	b, err = Stand(conn, hold)
	must(t, err)
	t.Cleanup(b.Close)
	return b, pair[0]
}

func TestAServerThatIsToldNothingLeavesNothing(t *testing.T) {
	b, sock := standing(t, true)
	m, fd, err := receive(sock, 0)
	must(t, err)
	defer unix.Close(fd)
	if m.kind != holderMsg {
		t.Fatalf("the keeper hears message %d, not of the holder", m.kind)
	}
	journal := filepath.Join(t.TempDir(), "journal")
	must(t, b.Expect(journal))
	b.Close()
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the holder is there: %v", err)
	}
	if left, err := os.ReadDir(journal); err != nil || len(left) > 0 {
		t.Errorf("of the journals %v is left, %v", left, err)
	}
	if _, _, err := receive(sock, 0); err == nil {
		t.Error("the keeper's connection does not end")
	}
}

func TestAServerThatFailsAtItsStoreLeavesItsHolderToTheNext(t *testing.T) {
	b, sock := standing(t, true)
	_, fd, err := receive(sock, 0)
	must(t, err)
	defer unix.Close(fd)
	reader := &store.Reader{}
	if err := b.Serve(t.Context(), Config{Reader: reader, Journal: filepath.Join(t.TempDir(), "no", "journal")}); err == nil {
		t.Fatal("it serves without a place for its journals")
	}
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		t.Errorf("the holder: %v", err)
	}
	b.s.holder.stop()
}

func TestASpareJournalIsWhatOneMadeInItsPlaceWouldBe(t *testing.T) {
	dir := t.TempDir()
	snap := snapshot{id: 7, pid: 3, forks: 2, windows: []window{{0x1000, 0x5000, 0x1000}, {0x9000, 0xa000, 0x7000}}}
	made, err := newJournal(dir, snap, 5)
	must(t, err)
	want, err := os.ReadFile(made.path)
	must(t, err)
	must(t, made.remove())

	must(t, os.WriteFile(filepath.Join(dir, "spare-0"), []byte("of a server that died"), 0o600))
	var s spares
	must(t, s.make(dir))
	j, err := s.take(dir, snap, 5)
	must(t, err)
	if got, err := os.ReadFile(j.path); err != nil || string(got) != string(want) {
		t.Errorf("it is another: %v", err)
	}
	// What is read goes to the file.
	copy(j.mapped[j.next*msgSize:], []byte{eventUnmap, 0, 0, 0, 0, 0, 0, 0, 0, 0x10})
	must(t, j.close())
	_, _, events, err := openJournal(dir, 7)
	must(t, err)
	if len(events) != 2 || events[0].kind != eventServer || events[1].kind != eventUnmap {
		t.Errorf("read again, it has %+v", events)
	}
	for id := uint64(100); len(s.left) > 0; id++ {
		snap.id = id
		j, err := s.take(dir, snap, 5)
		must(t, err)
		must(t, j.remove())
	}
	if j, err := s.take(dir, snap, 5); j != nil || err != nil {
		t.Errorf("of none that is left: %v, %v", j, err)
	}
}

func TestASpareJournalIsTakenForWhatFitsIntoIt(t *testing.T) {
	dir := t.TempDir()
	var s spares
	must(t, s.make(dir))
	defer s.drop()
	long := snapshot{id: 1, windows: make([]window, (pageSize-journalHeader)/windowSize+1)}
	if j, err := s.take(dir, long, 1); j != nil || err != nil {
		t.Errorf("for a snapshot of two pages: %v, %v", j, err)
	}
	if j, err := s.take(t.TempDir(), snapshot{id: 1}, 1); j != nil || err != nil {
		t.Errorf("for another directory: %v, %v", j, err)
	}
}

// What only the background needs is done when the container's first faults are answered.
func TestNothingIsGivenBackInTheCalm(t *testing.T) {
	dir := sealedStore(t, 1, 100, false)
	reader, err := store.OpenSealed(dir)
	must(t, err)
	defer reader.Close()
	b, _ := standing(t, false)
	s := b.s
	s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal"), Calm: time.Hour}
	must(t, s.load())
	uffd, err := newUserfaultfd()
	must(t, err)
	for _, m := range []message{{kind: readyMsg, id: 1}, {kind: memoryMsg, id: 1, pid: 1}, {kind: finishedMsg}, {kind: releasedMsg}} {
		fd := -1
		if m.kind == memoryMsg {
			fd = uffd
		}
		must(t, s.heard(m, fd))
	}
	if res, worked, err := s.fill(); res != paced || worked || err != nil {
		t.Errorf("in the calm: %v, %v, %v", res, worked, err)
	}
	must(t, s.giveBack())
	notes, err := filepath.Glob(filepath.Join(dir, "pages", "*.given"))
	must(t, err)
	if s.released || len(notes) > 0 {
		t.Errorf("released %v, notes %v", s.released, notes)
	}
	s.pause = time.Now()
	if _, _, err := s.fill(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.fill(); err != nil {
		t.Fatal(err)
	}
	if !s.released {
		t.Error("nothing is given back after it")
	}
}
