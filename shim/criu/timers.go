package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
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

// RearmTimers corrects the periodic timerfds in a container's images. One that
// has expired and was not read yet has no time left in fdinfo, as the kernel
// starts it again only when it is read (kernel: fs/timerfd.c, timerfd_show and
// timerfd_read_iter). CRIU sets that time on restore, which means disarmed: the
// timer would never tick again. With a nanosecond left it ticks at once.
func RearmTimers(dir string) error {
	path := filepath.Join(dir, filesImage)
	image, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	out, changed, err := rearm(image)
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

// rearm copies an image of open files; entries without such a timer stay as
// they are, byte for byte.
func rearm(image []byte) (out []byte, changed bool, err error) {
	err = eachFile(image, func(record []byte, entry *fdinfo.FileEntry) error {
		if expired(entry.GetTfd()) {
			entry.Tfd.Vnsec = proto.Uint64(1)
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
