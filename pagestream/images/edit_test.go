package images

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// mmOf encodes an mm message: a field that this package does not know, areas,
// and another unknown one.
func mmOf(areas ...[]byte) []byte {
	msg := protowire.AppendTag(nil, 1, protowire.VarintType)
	msg = protowire.AppendVarint(msg, 0x400000)
	for _, a := range areas {
		msg = protowire.AppendTag(msg, fieldMMVMAs, protowire.BytesType)
		msg = protowire.AppendBytes(msg, a)
	}
	msg = protowire.AppendTag(msg, 99, protowire.BytesType)
	return protowire.AppendBytes(msg, []byte("kept"))
}

// areaOf encodes an area with a field behind its flags.
func areaOf(start, end uint64, flags uint32) []byte {
	a := message(1, start, 2, end, 3, 0, 4, 0, 5, 3)
	a = protowire.AppendTag(a, fieldVMAFlags, protowire.VarintType)
	a = protowire.AppendVarint(a, uint64(flags))
	return append(a, message(7, 0x201)...)
}

func TestEditMMFileChangesEndAndFlagsAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mm-1.img")
	before := mmOf(areaOf(0x1000, 0x2000, 0x22), areaOf(0x100000, 0x200000, 0x28), areaOf(0x300000, 0x400000, 0x28))
	if err := os.WriteFile(path, image(magicMM, before), 0o600); err != nil {
		t.Fatal(err)
	}
	changed, err := EditMMFile(path, nil, func(v VMA) VMA {
		switch v.Start {
		case 0x100000:
			v.Flags = 0x22
		case 0x300000:
			v.End = 0x40000000
		}
		return v
	})
	if err != nil || changed != 2 {
		t.Fatalf("changed %d: %v", changed, err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := image(magicMM, mmOf(areaOf(0x1000, 0x2000, 0x22), areaOf(0x100000, 0x200000, 0x22), areaOf(0x300000, 0x40000000, 0x28)))
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%x, want\n%x", got, want)
	}
}

func TestEditMMFileLeavesAFileAloneThatNeedsNoChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mm-1.img")
	if err := os.WriteFile(path, image(magicMM, mmOf(areaOf(0x1000, 0x2000, 0x22))), 0o400); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(path)
	if n, err := EditMMFile(path, nil, func(v VMA) VMA { return v }); n != 0 || err != nil {
		t.Fatalf("changed %d: %v", n, err)
	}
	if after, _ := os.Stat(path); after.ModTime() != before.ModTime() {
		t.Error("the file was written")
	}
}

func FuzzEditMM(f *testing.F) {
	f.Add(mmOf(areaOf(0x1000, 0x2000, 0x22)))
	f.Add([]byte{0x72, 0xff})
	f.Fuzz(func(t *testing.T, msg []byte) {
		out, changed, err := editMM(msg, nil, func(v VMA) VMA { return v })
		if err == nil && (changed != 0 || !bytes.Equal(out, msg)) {
			t.Errorf("%x became %x", msg, out)
		}
	})
}
