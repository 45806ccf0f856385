package lazy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"godwit.dev/godwit/pagestream/store"
	"golang.org/x/sys/unix"
)

// SocketName is what CRIU connects to, in the work directory of its restore
// (criu/uffd.c, LAZY_PAGES_SOCK_NAME).
const SocketName = "lazy-pages.socket"

// restoreFinished is what CRIU says when all processes are made and none runs yet
// (criu/uffd.c, LAZY_PAGES_RESTORE_FINISHED). It is over any pid.
const restoreFinished = 0x52535446

const maxPID = 1 << 22

// ErrRestore is wrapped by the error of a CRIU that went away before it had finished
// the restore, or said what it does not say.
var ErrRestore = errors.New("CRIU has not finished the restore")

// rightsReader is what a net.UnixConn has for descriptors.
type rightsReader interface {
	ReadMsgUnix(b, oob []byte) (n, oobn, flags int, addr *net.UnixAddr, err error)
}

// handshake listens to CRIU until it has finished the restore: for each process four
// bytes with its pid, in the pid namespace that it is restored in, then one byte with
// its userfaultfd (criu/uffd.c, send_uffd). A negative pid is a zombie's, and nothing
// comes with it. memory gets the descriptor to keep, also if it returns an error.
func handshake(conn rightsReader, memory func(pid int32, fd int) error) error {
	seen := make(map[int32]bool)
	for {
		pid, err := readPID(conn)
		switch {
		case err != nil:
			return err
		case pid == restoreFinished:
			return nil
		case pid < 0:
			continue
		case pid == 0 || pid > maxPID || seen[pid]:
			return fmt.Errorf("pid %d, which cannot be or was there before: %w", pid, ErrRestore)
		case len(seen) == store.MaxSpaces:
			return fmt.Errorf("more than %d processes: %w", store.MaxSpaces, ErrRestore)
		}
		seen[pid] = true
		fd, err := readUserfaultfd(conn)
		if err != nil {
			return fmt.Errorf("userfaultfd of process %d: %w", pid, err)
		}
		if err := memory(pid, fd); err != nil {
			return err
		}
	}
}

func readPID(conn rightsReader) (int32, error) {
	var b [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	for got := 0; got < len(b); {
		n, oobn, _, _, err := conn.ReadMsgUnix(b[got:], oob)
		if fd := oneFD(oob[:oobn]); fd >= 0 {
			unix.Close(fd)
			return 0, fmt.Errorf("a descriptor in the place of a pid: %w", ErrRestore)
		}
		if err = ended(n, err); err != nil {
			return 0, err
		}
		got += n
	}
	return int32(binary.NativeEndian.Uint32(b[:])), nil
}

func readUserfaultfd(conn rightsReader) (int, error) {
	var b [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(b[:], oob)
	fd := oneFD(oob[:oobn])
	if err = ended(n, err); err == nil && fd < 0 {
		err = fmt.Errorf("no descriptor: %w", ErrRestore)
	}
	if err != nil && fd >= 0 {
		unix.Close(fd)
	}
	return fd, err
}

// ended makes the end of the connection an error.
func ended(n int, err error) error {
	if errors.Is(err, io.EOF) || (err == nil && n == 0) {
		return fmt.Errorf("connection closed: %w", ErrRestore)
	}
	return err
}
