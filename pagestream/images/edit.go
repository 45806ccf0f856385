package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the fields that EditMMFile knows (images/mm.proto, images/vma.proto).
const (
	fieldMMVMAs   = 14
	fieldVMAEnd   = 2
	fieldVMAFlags = 6
)

// EditMMFile gives areas of mm-PID.img another end or other flags (MAP_*): edit
// is asked for each area and says what they are to be. Everything else in the image, also
// what this package does not know, stays as it is. It returns how many areas
// changed; with none the file is not touched.
func EditMMFile(path string, edit func(VMA) VMA) (changed int, err error) {
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
	out, changed, err := editMM(msg, edit)
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

// editMM copies an mm message with another end and other flags in some areas.
func editMM(msg []byte, edit func(VMA) VMA) (out []byte, changed int, err error) {
	out = make([]byte, 0, len(msg)+16)
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
		want := edit(v)
		if want.End == v.End && want.Flags == v.Flags {
			out = append(out, field...)
			continue
		}
		changed++
		out = protowire.AppendTag(out, fieldMMVMAs, protowire.BytesType)
		out = protowire.AppendBytes(out, withEndAndFlags(area, want))
	}
	return out, changed, nil
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
