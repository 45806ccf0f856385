package images

import (
	"errors"
	"fmt"
	"io"
	"math"

	"godwit.dev/godwit/pagestream"
	"google.golang.org/protobuf/encoding/protowire"
)

// VMA is a memory area as CRIU's mm image lists it (images/vma.proto).
type VMA struct {
	Start, End uint64
	Prot       uint32 // PROT_*
	Flags      uint32 // MAP_*
	Status     uint32 // CRIU's kind of area, VMA_* of criu/include/image.h
	Madvise    uint64 // bit N: madvise N was given
}

// madvWipeOnFork is MADV_WIPEONFORK of asm-generic/mman-common.h.
const madvWipeOnFork = 18

// WipedOnFork says that a child finds zeros in the area after a fork.
func (v VMA) WipedOnFork() bool { return v.Madvise&(1<<madvWipeOnFork) != 0 }

// statusGuard is the status of what is no area, but guard pages that lie in one or in several (VMA_AREA_GUARD of criu/include/image.h).
const statusGuard = 1 << 16

// Guard says that this is no area, but guard pages (MADV_GUARD_INSTALL). They are listed behind all areas.
func (v VMA) Guard() bool { return v.Status&statusGuard != 0 }

const (
	// maxVMAs is well over what vm.max_map_count is set to anywhere.
	maxVMAs = 1 << 20
	// maxMMRecord: about 60 bytes for each area.
	maxMMRecord = 64 << 20
)

// ReadMMFile decodes the memory areas of mm-PID.img, in its order. Errors about the
// bytes wrap ErrFormat and name file and offset.
func ReadMMFile(path string) ([]VMA, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	vmas, err := ReadMM(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return vmas, nil
}

// ReadMM decodes the memory areas of an mm image, in its order.
func ReadMM(r io.Reader) ([]VMA, error) {
	rs, err := newRecords(r, magicMM, maxMMRecord)
	if err != nil {
		return nil, fmt.Errorf("mm image: %w", err)
	}
	msg, err := rs.read()
	if errors.Is(err, io.EOF) {
		err = rs.bad("no record")
	}
	if err != nil {
		return nil, fmt.Errorf("mm image: %w", err)
	}
	var vmas []VMA
	err = fields(msg, func(num protowire.Number, _ uint64, b []byte) error {
		if num != 14 {
			return nil
		}
		v, err := decodeVMA(b)
		if err != nil {
			return fmt.Errorf("area %d: %w", len(vmas), err)
		}
		if n := len(vmas); n == maxVMAs {
			return fmt.Errorf("more than %d areas", maxVMAs)
		}
		vmas = append(vmas, v)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("mm image: %w", rs.bad("%v", err))
	}
	return vmas, nil
}

func decodeVMA(b []byte) (VMA, error) {
	var v VMA
	var prot, flags, status uint64
	err := fields(b, func(num protowire.Number, n uint64, _ []byte) error {
		switch num {
		case 1:
			v.Start = n
		case 2:
			v.End = n
		case 5:
			prot = n
		case 6:
			flags = n
		case 7:
			status = n
		case 9:
			v.Madvise = n
		}
		return nil
	})
	switch {
	case err != nil:
		return v, err
	case v.Start%pagestream.PageSize != 0 || v.End%pagestream.PageSize != 0 || v.Start >= v.End:
		return v, fmt.Errorf("bad bounds %#x-%#x", v.Start, v.End)
	case prot > math.MaxUint32 || flags > math.MaxUint32 || status > math.MaxUint32:
		return v, fmt.Errorf("at %#x: prot, flags or status over 32 bits", v.Start)
	}
	v.Prot, v.Flags, v.Status = uint32(prot), uint32(flags), uint32(status)
	return v, nil
}
