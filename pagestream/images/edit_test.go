package images

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"godwit.dev/godwit/pagestream"
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

// guardOf is what CRIU 4.2.1 has written of two guard pages.
const guardOf = "0880c0e6f9feed1f1080e0e6f9feed1f1800200028003000388080044001"

func TestEditMMFileListsGuardPagesAsCRIUDoes(t *testing.T) {
	listed, err := hex.DecodeString(guardOf)
	if err != nil {
		t.Fatal(err)
	}
	area, other := areaOf(0x1000, 0x2000, 0x22), areaOf(0x3000, 0x9000, 0x22)
	v, err := decodeVMA(listed)
	if err != nil || !v.Guard() {
		t.Fatalf("%v, %v", v, err)
	}
	guards := []pagestream.Range{{Start: v.Start, Pages: (v.End - v.Start) / pagestream.PageSize}}
	for name, c := range map[string]struct {
		before  []byte
		guards  []pagestream.Range
		changed int
		after   []byte
	}{
		"behind all areas":         {mmOf(area, other), guards, 1, mmOf(area, other, listed)},
		"of what lists them":       {mmOf(area, other, listed), guards, 0, mmOf(area, other, listed)},
		"of what lists other ones": {mmOf(area, other, listed), []pagestream.Range{{Start: 0x4000, Pages: 1}}, 0, mmOf(area, other, listed)},
		"none":                     {mmOf(area, other), nil, 0, mmOf(area, other)},
		"several":                  {mmOf(area), append(guards, guards...), 2, mmOf(area, listed, listed)},
	} {
		path := filepath.Join(t.TempDir(), "mm-1.img")
		if err := os.WriteFile(path, image(magicMM, c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := EditMMFile(path, c.guards, func(v VMA) VMA { return v }); n != c.changed || err != nil {
			t.Errorf("%s: changed %d: %v", name, n, err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, image(magicMM, c.after)) {
			t.Errorf("%s: %x, %v, want %x", name, got, err, image(magicMM, c.after))
		}
	}
}

func FuzzEditMM(f *testing.F) {
	f.Add(mmOf(areaOf(0x1000, 0x2000, 0x22)), uint64(0), uint64(0))
	f.Add(mmOf(areaOf(0x1000, 0x2000, 0x22)), uint64(1), uint64(2))
	f.Add([]byte{0x72, 0xff}, uint64(0), uint64(0))
	f.Fuzz(func(t *testing.T, msg []byte, page, pages uint64) {
		var before, after []VMA
		out, changed, err := editMM(msg, nil, func(v VMA) VMA { before = append(before, v); return v })
		if err == nil && (changed != 0 || !bytes.Equal(out, msg)) {
			t.Errorf("%x became %x", msg, out)
		}
		guard := pagestream.Range{Start: page % (1 << 40) * pagestream.PageSize, Pages: pages%(1<<20) + 1}
		if err == nil {
			out, changed, err = editMM(msg, []pagestream.Range{guard}, func(v VMA) VMA { return v })
		}
		if err != nil {
			return
		}
		if _, _, err := editMM(out, nil, func(v VMA) VMA { after = append(after, v); return v }); err != nil {
			t.Fatalf("%x became %x: %v", msg, out, err)
		}
		want := before
		if !slices.ContainsFunc(before, VMA.Guard) {
			want = append(want, VMA{Start: guard.Start, End: guard.End(), Status: statusGuard})
		}
		if !slices.Equal(after, want) || changed != len(want)-len(before) {
			t.Errorf("%v became %v with guard pages %v, %d changed", before, after, guard, changed)
		}
	})
}
