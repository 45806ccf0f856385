package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"godwit.dev/godwit/pagestream"
)

// Numbers of the fields that EditMMFile knows (images/mm.proto, images/vma.proto).
const (
	fieldMMVMAs    = 14
	fieldVMAStart  = 1
	fieldVMAEnd    = 2
	fieldVMAOffset = 3
	fieldVMAShared = 4
	fieldVMAProt   = 5
	fieldVMAFlags  = 6
	fieldVMAStatus = 7
	fieldVMAFile   = 8
)

// EditMMFile gives areas of mm-PID.img another end or other flags (MAP_*): edit
// is asked for each area and says what they are to be. And it lists guard pages behind all areas, as CRIU does, unless the
// image lists any. Everything else in the image, also
// what this package does not know, stays as it is. It returns how many areas
// changed or are new; with none the file is not touched.
func EditMMFile(path string, guards []pagestream.Range, edit func(VMA) VMA) (changed int, err error) {
	f, err := Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	rs, err := newRecords(f, magicMM, maxMMRecord)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	msg, err := rs.read()
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	out, changed, err := editMM(msg, guards, edit)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, rs.bad("%v", err))
	}
	if changed == 0 {
		return 0, nil
	}
	var image bytes.Buffer
	if err := writeMagic(&image, magicMM); err != nil {
		return 0, err
	}
	if err := writeRecord(&image, out); err != nil {
		return 0, err
	}
	if err := os.WriteFile(path, image.Bytes(), 0o600); err != nil {
		return 0, fmt.Errorf("rewrite memory areas: %w", err)
	}
	return changed, nil
}

// editMM copies an mm message with another end and other flags in some areas, and with guard pages.
func editMM(msg []byte, guards []pagestream.Range, edit func(VMA) VMA) (out []byte, changed int, err error) {
	out = make([]byte, 0, len(msg)+16+32*len(guards))
	behind := 0 // the end of the last area in out
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeField(msg)
		if n < 0 {
			return nil, 0, protowire.ParseError(n)
		}
		field := msg[:n]
		msg = msg[n:]
		if num != fieldMMVMAs || typ != protowire.BytesType {
			out = append(out, field...)
			continue
		}
		_, _, tag := protowire.ConsumeTag(field)
		area, _ := protowire.ConsumeBytes(field[tag:])
		v, err := decodeVMA(area)
		if err != nil {
			return nil, 0, err
		}
		if v.Guard() {
			guards = nil
		}
		if want := edit(v); want.End != v.End || want.Flags != v.Flags {
			changed++
			out = appendArea(out, withEndAndFlags(area, want))
		} else {
			out = append(out, field...)
		}
		behind = len(out)
	}
	var listed []byte
	for _, g := range guards {
		listed = appendArea(listed, guardArea(g))
	}
	return slices.Insert(out, behind, listed...), changed + len(guards), nil
}

// appendArea appends an area to an mm message.
func appendArea(msg, area []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(msg, fieldMMVMAs, protowire.BytesType), area)
}

// guardArea is what CRIU lists guard pages as (criu/mem.c, collect_madv_guards; criu/util.c, alloc_vma_area).
func guardArea(g pagestream.Range) (area []byte) {
	for _, f := range []struct {
		num   protowire.Number
		value uint64
	}{
		{fieldVMAStart, g.Start}, {fieldVMAEnd, g.End()}, {fieldVMAOffset, 0}, {fieldVMAShared, 0}, {fieldVMAProt, 0}, {fieldVMAFlags, 0},
		{fieldVMAStatus, statusGuard}, {fieldVMAFile, protowire.EncodeZigZag(-1)},
	} {
		area = protowire.AppendTag(area, f.num, protowire.VarintType)
		area = protowire.AppendVarint(area, f.value)
	}
	return area
}

// withEndAndFlags copies an area's message with those of another.
func withEndAndFlags(area []byte, want VMA) []byte {
	out := make([]byte, 0, len(area)+8)
	for len(area) > 0 {
		num, _, n := protowire.ConsumeField(area)
		switch num {
		case fieldVMAEnd:
			out = protowire.AppendTag(out, num, protowire.VarintType)
			out = protowire.AppendVarint(out, want.End)
		case fieldVMAFlags:
			out = protowire.AppendTag(out, num, protowire.VarintType)
			out = protowire.AppendVarint(out, uint64(want.Flags))
		default:
			out = append(out, area[:n]...)
		}
		area = area[n:]
	}
	return out
}
