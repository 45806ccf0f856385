package sysvipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	ipcmsg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipcsem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipcshm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// ErrImage is wrapped by every error about the bytes of an image.
var ErrImage = errors.New("bad image of System V IPC")

// Bounds of what an image, which comes from a peer, may ask for: the kernel's
// own are higher (include/uapi/linux/{shm,sem,msg}.h, ipc/util.h).
const (
	maxObjects  = 32768
	maxRecord   = 4096
	maxSems     = 32000
	maxMessages = 1 << 16
	// maxMessage is CRIU's bound (criu/ipc_ns.c, MSGMAX).
	maxMessage = 8192
)

// magicCommon begins every image (criu/include/magic.h); the image's own magic
// follows and is told by the file's name already.
const magicCommon = 0x54564319

// reader reads the records of an image in its order.
type reader struct{ r io.Reader }

// openImage opens an image that is a plain file; nil if there is none.
func openImage(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func newReader(r io.Reader) (*reader, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("%w: no head", ErrImage)
	}
	if binary.LittleEndian.Uint32(head[:]) != magicCommon {
		return nil, fmt.Errorf("%w: wrong magic", ErrImage)
	}
	return &reader{r}, nil
}

// next reads one message; io.EOF at the end of the image.
func (r *reader) next(m proto.Message) error {
	var size [4]byte
	if _, err := io.ReadFull(r.r, size[:]); err != nil {
		if err == io.EOF {
			return io.EOF
		}
		return fmt.Errorf("%w: cut short", ErrImage)
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > maxRecord {
		return fmt.Errorf("%w: record of %d bytes", ErrImage, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return fmt.Errorf("%w: cut short", ErrImage)
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%w: %w", ErrImage, err)
	}
	return nil
}

// bytes reads n bytes of payload, which is padded to 8 (criu/ipc_ns.c).
func (r *reader) bytes(n int) ([]byte, error) {
	b := make([]byte, (n+7)&^7)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, fmt.Errorf("%w: cut short", ErrImage)
	}
	return b[:n], nil
}

// readSegments decodes ipcns-shm-N.img. Content is in the shared memory's own
// images, or, from an old CRIU, inline, which is refused.
func readSegments(in io.Reader) ([]*ipcshm.IpcShmEntry, error) {
	r, err := newReader(in)
	if err != nil {
		return nil, err
	}
	var out []*ipcshm.IpcShmEntry
	for {
		e := &ipcshm.IpcShmEntry{}
		if err := r.next(e); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if !e.GetInPagemaps() {
			return nil, fmt.Errorf("%w: content of shared memory is inline, as CRIU before 3.0 wrote it", ErrImage)
		}
		if len(out) == maxObjects {
			return nil, fmt.Errorf("%w: more than %d segments", ErrImage, maxObjects)
		}
		out = append(out, e)
	}
}

// semaphores is a semaphore set and its values.
type semaphores struct {
	*ipcsem.IpcSemEntry
	values []byte // 16 bits each
}

// readSemaphores decodes ipcns-sem-N.img.
func readSemaphores(in io.Reader) ([]semaphores, error) {
	r, err := newReader(in)
	if err != nil {
		return nil, err
	}
	var out []semaphores
	for {
		s := semaphores{IpcSemEntry: &ipcsem.IpcSemEntry{}}
		if err := r.next(s.IpcSemEntry); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if s.GetNsems() == 0 || s.GetNsems() > maxSems || len(out) == maxObjects {
			return nil, fmt.Errorf("%w: set %d of %d semaphores", ErrImage, len(out), s.GetNsems())
		}
		if s.values, err = r.bytes(int(s.GetNsems()) * 2); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
}

// message is one message of a queue.
type message struct {
	kind uint64
	text []byte
}

// queue is a message queue and what waits in it.
type queue struct {
	*ipcmsg.IpcMsgEntry
	messages []message
}

// readQueues decodes ipcns-msg-N.img.
func readQueues(in io.Reader) ([]queue, error) {
	r, err := newReader(in)
	if err != nil {
		return nil, err
	}
	var out []queue
	for {
		q := queue{IpcMsgEntry: &ipcmsg.IpcMsgEntry{}}
		if err := r.next(q.IpcMsgEntry); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if q.GetQnum() > maxMessages || len(out) == maxObjects {
			return nil, fmt.Errorf("%w: queue %d of %d messages", ErrImage, len(out), q.GetQnum())
		}
		if q.messages, err = r.readMessages(int(q.GetQnum())); err != nil {
			return nil, err
		}
		out = append(out, q)
	}
}

func (r *reader) readMessages(n int) ([]message, error) {
	var out []message
	for range n {
		var m ipcmsg.IpcMsg
		if err := r.next(&m); err != nil {
			return nil, fmt.Errorf("%w: queue is cut short", ErrImage)
		}
		if m.GetMsize() > maxMessage {
			return nil, fmt.Errorf("%w: message of %d bytes", ErrImage, m.GetMsize())
		}
		text, err := r.bytes(int(m.GetMsize()))
		if err != nil {
			return nil, err
		}
		out = append(out, message{kind: m.GetMtype(), text: text})
	}
	return out, nil
}
