package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"google.golang.org/protobuf/proto"
)

// regularFiles makes an image of open files with these names.
func regularFiles(t testing.TB, names ...string) []byte {
	t.Helper()
	image := binary.LittleEndian.AppendUint64(nil, filesMagic)
	for i, name := range names {
		kind := fdinfo.FdTypes_REG
		record, err := proto.Marshal(&fdinfo.FileEntry{Type: &kind, Id: proto.Uint32(uint32(i)), Reg: &regfile.RegFileEntry{
			Id: proto.Uint32(uint32(i)), Flags: proto.Uint32(0), Pos: proto.Uint64(0), Name: &name,
			Fown: &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)},
		}})
		if err != nil {
			t.Fatal(err)
		}
		image = binary.LittleEndian.AppendUint32(image, uint32(len(record)))
		image = append(image, record...)
	}
	return image
}

func TestNamesThatADumpGaveToDeletedFilesAreFound(t *testing.T) {
	dir := t.TempDir()
	if names, err := LinkRemaps(dir); err != nil || len(names) > 0 {
		t.Errorf("without images: %v, %v", names, err)
	}
	image := regularFiles(t, "usr/lib/libc.so.6", "work/link_remap.12", "/data/link_remap.3", "work/link_remap.x", "work/link_remap.4/file", "../link_remap.5")
	for name, b := range map[string][]byte{filesImage: image, remapsImage: make([]byte, imageHeader)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := LinkRemaps(dir); err != nil || len(names) > 0 {
		t.Errorf("of a dump that gave no names: %v, %v", names, err)
	}
	if err := os.WriteFile(filepath.Join(dir, remapsImage), make([]byte, imageHeader+20), 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := LinkRemaps(dir)
	if want := []string{"/work/link_remap.12", "/data/link_remap.3", "/link_remap.5"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("got %v, %v, want %v", names, err, want)
	}
	if _, err := linkRemaps(image[:len(image)-3]); err == nil {
		t.Error("half an image is read")
	}
}

func FuzzLinkRemaps(f *testing.F) {
	f.Add(regularFiles(f, "work/link_remap.12", "usr/lib/libc.so.6"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, image []byte) {
		names, err := linkRemaps(image)
		if err != nil && !errors.Is(err, errFilesImage) {
			t.Fatal(err)
		}
		for _, name := range names {
			if !path.IsAbs(name) || path.Clean(name) != name {
				t.Fatalf("name %q", name)
			}
		}
	})
}
