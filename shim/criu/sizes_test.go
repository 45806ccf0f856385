package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"google.golang.org/protobuf/proto"
)

// sizedFiles makes an image of open files: a size of 0 stands for none.
func sizedFiles(t *testing.T, sizes ...uint64) []byte {
	t.Helper()
	image := binary.LittleEndian.AppendUint64(nil, filesMagic)
	for i, size := range sizes {
		kind, id, name := fdinfo.FdTypes_REG, uint32(i+1), []string{"/own", "/shared/file"}[i%2]
		reg := &regfile.RegFileEntry{
			Id: &id, Flags: proto.Uint32(0), Pos: proto.Uint64(7), Name: &name, Mode: proto.Uint32(0o644),
			Fown: &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)},
		}
		if size > 0 {
			reg.Size = &size
		}
		record, err := proto.Marshal(&fdinfo.FileEntry{Type: &kind, Id: &id, Reg: reg})
		if err != nil {
			t.Fatal(err)
		}
		image = binary.LittleEndian.AppendUint32(image, uint32(len(record)))
		image = append(image, record...)
	}
	return image
}

func TestSizesOfFilesThatOthersWriteToAreForgotten(t *testing.T) {
	shared := func(path string) bool { return path == "/shared/file" }
	for name, c := range map[string]struct {
		before, after []byte
		changed       bool
	}{
		"one of two":             {sizedFiles(t, 5, 6), sizedFiles(t, 5, 0), true},
		"one that has none":      {sizedFiles(t, 5, 0), sizedFiles(t, 5, 0), false},
		"none that is shared":    {sizedFiles(t, 5), sizedFiles(t, 5), false},
		"beside a timer":         {filesOf(t, 1, 0, 50), filesOf(t, 1, 0, 50), false},
		"an image without files": {sizedFiles(t), sizedFiles(t), false},
	} {
		out, changed, err := amend(c.before, func(e *fdinfo.FileEntry) bool { return forgetSize(e, shared) })
		if err != nil || changed != c.changed || !bytes.Equal(out, c.after) {
			t.Errorf("%s: changed %t, %v:\n%x, want\n%x", name, changed, err, out, c.after)
		}
	}
	if _, _, err := amend([]byte("no image"), rearm); !errors.Is(err, errFilesImage) {
		t.Errorf("no image: %v", err)
	}
}
