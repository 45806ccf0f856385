package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pipe"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"google.golang.org/protobuf/proto"
)

// filesImage has an entry for each open file, timers among them.
const filesImage = "files.img"

// filesMagic begins it (criu/include/magic.h, FILES_MAGIC; IMG_COMMON_MAGIC first).
const filesMagic = uint64(0x56303138)<<32 | 0x54564319

// errFilesImage is wrapped by the error for an image of open files that cannot
// be read.
var errFilesImage = errors.New("bad image of open files")

// AmendFiles corrects what a container's images say of its open files: expired timers are armed again, and sizes are forgotten of files that others
// may write to until they are opened again. others is asked for each file's path in the container.
func AmendFiles(dir string, others func(path string) bool) error {
	return editFiles(dir, func(image []byte) ([]byte, bool, error) {
		return amend(image, func(e *fdinfo.FileEntry) bool {
			armed, forgotten := rearm(e), forgetSize(e, others)
			return armed || forgotten
		})
	})
}

// PrepareAmendFiles does once what takes longer than all else the first time that open files are decoded: a pod stands still for AmendFiles.
var PrepareAmendFiles = sync.OnceFunc(func() {
	sample := &fdinfo.FileEntry{
		Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(1),
		Reg:  &regfile.RegFileEntry{Id: proto.Uint32(1), Flags: proto.Uint32(0), Pos: proto.Uint64(0), Fown: &fown.FownEntry{}, Name: proto.String("/")},
		Isk:  &sk_inet.InetSkEntry{Fown: &fown.FownEntry{}, Opts: &sk_opts.SkOptsEntry{}},
		Tfd:  &timerfd.TimerfdEntry{Fown: &fown.FownEntry{}},
		Pipe: &pipe.PipeEntry{Fown: &fown.FownEntry{}},
	}
	image, err := proto.MarshalOptions{AllowPartial: true}.Marshal(sample)
	if err == nil {
		_ = proto.UnmarshalOptions{AllowPartial: true}.Unmarshal(image, new(fdinfo.FileEntry))
	}
})

// editFiles writes a container's image of open files anew, if edit changes it. A
// container without one has none open.
func editFiles(dir string, edit func(image []byte) (out []byte, changed bool, err error)) error {
	path := filepath.Join(dir, filesImage)
	image, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	out, changed, err := edit(image)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if !changed {
		return nil
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	return nil
}

// amend copies an image of open files; entries that change says it has left alone stay as they are, byte for byte.
func amend(image []byte, change func(*fdinfo.FileEntry) bool) (out []byte, changed bool, err error) {
	err = eachFile(image, func(record []byte, entry *fdinfo.FileEntry) error {
		if change(entry) {
			var err error
			if record, err = proto.Marshal(entry); err != nil {
				return fmt.Errorf("%w: %w", errFilesImage, err)
			}
			changed = true
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(record)))
		out = append(out, record...)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return append(image[:8:8], out...), changed, nil
}

// rearm corrects a periodic timerfd. One that
// has expired and was not read yet has no time left in fdinfo, as the kernel
// starts it again only when it is read (kernel: fs/timerfd.c, timerfd_show and
// timerfd_read_iter). CRIU sets that time on restore, which means disarmed: the
// timer would never tick again. With a nanosecond left it ticks at once.
func rearm(entry *fdinfo.FileEntry) (changed bool) {
	if !expired(entry.GetTfd()) {
		return false
	}
	entry.Tfd.Vnsec = proto.Uint64(1)
	return true
}

// eachFile reads an image of open files.
func eachFile(image []byte, each func(record []byte, entry *fdinfo.FileEntry) error) error {
	if len(image) < 8 || binary.LittleEndian.Uint64(image) != filesMagic {
		return fmt.Errorf("%w: no magic", errFilesImage)
	}
	for rest := image[8:]; len(rest) > 0; {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.LittleEndian.Uint32(rest)) {
			return fmt.Errorf("%w: an entry is cut short", errFilesImage)
		}
		n := 4 + binary.LittleEndian.Uint32(rest)
		record := rest[4:n]
		rest = rest[n:]
		var entry fdinfo.FileEntry
		if err := proto.Unmarshal(record, &entry); err != nil {
			return fmt.Errorf("%w: %w", errFilesImage, err)
		}
		if err := each(record, &entry); err != nil {
			return err
		}
	}
	return nil
}

// expired says whether a timer is periodic and waits to be read.
func expired(t *timerfd.TimerfdEntry) bool {
	return t.GetTicks() > 0 && t.GetIsec()+t.GetInsec() > 0 && t.GetVsec()+t.GetVnsec() == 0
}
