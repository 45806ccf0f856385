package lazy

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

func TestServerWhoseKeeperDiesFinishesAlone(t *testing.T) {
	dir := sealedStore(t, 2, 5000, false)
	l := newLab(t, dir, false)
	l.rate = 50e6
	path, err := compile()
	if err != nil {
		t.Skip("no C compiler:", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	theirs := os.NewFile(uintptr(pair[1]), "keeper")
	server, err := l.launch(theirs)
	theirs.Close()
	must(t, err)
	must(t, send(pair[0], message{kind: readyMsg, id: 1}, -1, 0))
	cmd := exec.CommandContext(t.Context(), path, l.socket, "2", "5000", "3", "200", "1")
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	conn, err := l.listener.AcceptUnix()
	must(t, err)
	id := uint64(0)
	must(t, handshake(conn, func(pid int32, fd int) error {
		id++
		err := send(pair[0], message{kind: memoryMsg, id: id, pid: pid}, fd, 0)
		return errors.Join(err, unix.Close(fd))
	}))
	must(t, send(pair[0], message{kind: finishedMsg}, -1, 0))
	must(t, unix.Close(pair[0])) // the keeper dies
	must(t, cmd.Wait())
	must(t, server.Wait())
}

func TestServerWhoseKeeperDiesBeforeTheRestoreEndsWithIt(t *testing.T) {
	for name, notice := range map[string]func(*server){
		"and it is told":               func(*server) {},
		"and it notices in telling it": func(s *server) { s.tell(message{kind: doneMsg, id: 1}, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := sealedStore(t, 1, 100, false)
			reader, err := store.OpenSealed(dir)
			must(t, err)
			defer reader.Close()
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			conn, err := ServerConn(pair[1])
			must(t, err)
			b, err := Stand(conn, false)
			must(t, err)
			defer b.Close()
			s := b.s
			s.cfg = Config{Reader: reader, Journal: filepath.Join(dir, "journal")}
			must(t, s.load())
			must(t, unix.Close(pair[0]))
			notice(s)
			if err := s.run(); !errors.Is(err, errNoKeeper) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeeperHoldsOnToMemoryWhenCRIUFails(t *testing.T) {
	l := newLab(t, sealedStore(t, 1, 100, false), false)
	kept := make(chan error, 1)
	go func() { kept <- l.keeper.Run(t.Context()) }()
	uffd, err := newUserfaultfd()
	must(t, err)
	defer unix.Close(uffd)
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: l.socket, Net: "unix"})
	must(t, err)
	_, err = conn.Write([]byte{1, 0, 0, 0})
	must(t, err)
	_, _, err = conn.WriteMsgUnix([]byte{0}, unix.UnixRights(uffd), nil)
	must(t, err)
	must(t, conn.Close())
	if err := <-kept; !errors.Is(err, ErrRestore) {
		t.Fatalf("CRIU went away: %v", err)
	}
	if m := l.keeper.kept[1]; m == nil || m.fd < 0 {
		t.Fatal("the userfaultfd has been closed while its process may be alive")
	}
	must(t, l.keeper.Close())
	if len(l.keeper.kept)+len(l.keeper.servers) != 0 {
		t.Fatal("something is still open")
	}
}

func TestKeeperGivesUpOnAServerThatCannotServe(t *testing.T) {
	dir := sealedStore(t, 1, 100, false)
	l := newLab(t, dir, false)
	l.keeper.cfg.Restarts = 2
	l.dir = t.TempDir() // no store
	if err := l.keeper.Run(t.Context()); !errors.Is(err, ErrServer) {
		t.Fatalf("got %v", err)
	}
	if n := l.keeper.Progress().Restarts; n != 2 {
		t.Fatalf("%d restarts", n)
	}
}

func TestKeeperStopsWhenItsContextEnds(t *testing.T) {
	for _, inside := range []bool{false, true} {
		l := newLab(t, sealedStore(t, 1, 100, false), inside)
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("aborted")
		time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
		if err := l.keeper.Run(ctx); !errors.Is(err, why) {
			t.Fatalf("got %v", err)
		}
	}
}

// script is a connection that says what a test or fuzzer makes CRIU say.
type script struct {
	say []byte
	fds int // descriptors still to be sent
}

func (s *script) ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error) {
	n = copy(b, s.say)
	s.say = s.say[n:]
	if n == 1 && s.fds > 0 {
		s.fds--
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return n, 0, 0, nil, err
		}
		oobn = copy(oob, unix.UnixRights(fd))
	}
	return n, oobn, 0, nil, nil
}

func FuzzHandshake(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0x46, 0x54, 0x53, 0x52}, 1)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 9, 0, 0, 0, 0, 9, 0, 0, 0, 0}, 2)
	f.Add([]byte{1, 0, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, say []byte, fds int) {
		seen := make(map[int32]bool)
		err := handshake(&script{say, fds}, func(pid int32, fd int) error {
			if pid <= 0 || pid > maxPID || seen[pid] || fd < 0 {
				t.Fatalf("process %d with descriptor %d", pid, fd)
			}
			seen[pid] = true
			return unix.Close(fd)
		})
		if err != nil && !errors.Is(err, ErrRestore) {
			t.Fatalf("error without ErrRestore: %v", err)
		}
	})
}

func TestProcessWithoutPagemapIsNotRestored(t *testing.T) {
	s := &server{sources: map[int32]*source{1: nil}, restored: make(chan struct{})}
	if _, err := s.source(2); !errors.Is(err, images.ErrFormat) {
		t.Fatalf("got %v", err)
	}
}
