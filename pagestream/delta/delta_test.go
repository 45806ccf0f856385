package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// randomPage is a page that looks like chance.
func randomPage(seed byte) []byte {
	page := make([]byte, pagestream.PageSize)
	rand.NewChaCha8([32]byte{seed}).Read(page)
	return page
}

// apply decodes the only record of a body over a copy of base.
func apply(t *testing.T, body, base []byte) ([]byte, error) {
	t.Helper()
	r, rest, err := Next(body)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes are left of a record", len(rest))
	}
	page := bytes.Clone(base)
	return page, r.Apply(page)
}

func TestAPageComesBackFromItsDeltaWhateverChangedInIt(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 3000 {
		base := randomPage(byte(n))
		page := bytes.Clone(base)
		for range rng.IntN(20) {
			at := rng.IntN(len(page))
			for i := at; i < min(len(page), at+1+rng.IntN(40)); i++ {
				page[i] = byte(rng.Uint32())
			}
		}
		body, ok := Append([]byte("before"), base, page, MaxRecord)
		if !ok {
			t.Fatalf("page %d: no delta of at most %d bytes", n, MaxRecord)
		}
		got, err := apply(t, body[len("before"):], base)
		if err != nil || !bytes.Equal(got, page) {
			t.Fatalf("page %d: another page came back (%v)", n, err)
		}
	}
}

func TestADeltaIsAsLongAsWhatChanged(t *testing.T) {
	for _, c := range []struct {
		name string
		from int // of the changed bytes
		n    int
		most int
	}{
		{"nothing", 0, 0, HeadSize},
		{"first byte", 0, 1, HeadSize + 3},
		{"last byte", pagestream.PageSize - 1, 1, HeadSize + 4},
		{"across words", 1021, 7, HeadSize + 10},
		{"64 bytes", 2048, 64, HeadSize + 67},
	} {
		base := randomPage(1)
		page := bytes.Clone(base)
		for i := range c.n {
			page[c.from+i] ^= 0xff
		}
		body, ok := Append(nil, base, page, MaxRecord)
		if !ok || len(body) > c.most {
			t.Errorf("%s: %d bytes, want at most %d", c.name, len(body), c.most)
		}
		if got, err := apply(t, body, base); err != nil || !bytes.Equal(got, page) {
			t.Errorf("%s: another page came back (%v)", c.name, err)
		}
	}
}

func TestWhatWouldBeTooLongIsNoDelta(t *testing.T) {
	base, page := randomPage(1), randomPage(2)
	dst := []byte("before")
	for _, limit := range []int{0, HeadSize, 100, MaxRecord, 1 << 20} {
		if got, ok := Append(dst, base, page, limit); ok || !bytes.Equal(got, dst) {
			t.Errorf("limit %d: a delta of a page of which every byte changed", limit)
		}
	}
	page = bytes.Clone(base)
	copy(page[100:], make([]byte, 50))
	body, _ := Append(nil, base, page, MaxRecord)
	for limit := range MaxRecord {
		if _, ok := Append(nil, base, page, limit); ok != (limit >= len(body)) {
			t.Fatalf("limit %d: %v for a record of %d bytes", limit, ok, len(body))
		}
	}
}

func TestADeltaAgainstAnotherContentIsAnError(t *testing.T) {
	base := randomPage(1)
	page := bytes.Clone(base)
	page[7] ^= 1
	body, _ := Append(nil, base, page, MaxRecord)
	for at := range base {
		if at == 7 {
			continue // what is overwritten does not matter
		}
		other := bytes.Clone(base)
		other[at] ^= 0x10
		if _, err := apply(t, body, other); !errors.Is(err, ErrBase) {
			t.Fatalf("byte %d of the base differs: %v, want ErrBase", at, err)
		}
	}
}

// forged is a record with these changes whose sum is right for what they make of zeros.
func forged(changes ...uint64) []byte {
	body := make([]byte, HeadSize)
	for _, c := range changes {
		body = binary.AppendUvarint(body, c)
	}
	binary.LittleEndian.PutUint16(body[8:], uint16(len(body)-HeadSize))
	binary.LittleEndian.PutUint64(body, xxh3.Hash(make([]byte, pagestream.PageSize)))
	return body
}

func TestForgedRecordsAreRefused(t *testing.T) {
	torn := forged(0, 3, 0, 0, 0)
	long := forged(0, 1, 0)
	binary.LittleEndian.PutUint16(long[8:], 4)
	most := append(forged(), make([]byte, MaxRecord)...)
	binary.LittleEndian.PutUint16(most[8:], MaxRecord-HeadSize+1)
	for name, body := range map[string][]byte{
		"nothing":               nil,
		"half a head":           make([]byte, HeadSize-1),
		"size beyond the body":  long,
		"size beyond the bound": most,
		"skip beyond the page":  forged(pagestream.PageSize+1, 1, 0),
		"skips add up to more":  forged(4000, 1, 0, 96, 1, 0),
		"skip wraps around":     forged(1<<64-1, 1, 0),
		"length 0":              forged(0, 0),
		"length beyond page":    forged(pagestream.PageSize-1, 2, 0, 0),
		"length beyond changes": forged(0, 2, 0),
		"length wraps around":   forged(8, 1<<64-8, 0),
		"no length":             forged(9),
		"torn number":           append(torn[:HeadSize:HeadSize], 0x80, 0x80, 0x80, 0x80, 0x80),
	} {
		if _, err := apply(t, body, make([]byte, pagestream.PageSize)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
	}
}

func FuzzRecordsNeverReachBeyondTheirPage(f *testing.F) {
	base := make([]byte, pagestream.PageSize)
	page := bytes.Clone(base)
	copy(page[4000:], "some bytes that changed")
	body, _ := Append(nil, base, page, MaxRecord)
	f.Add(body)
	f.Add(forged(pagestream.PageSize-1, 1, 0))
	f.Fuzz(func(t *testing.T, body []byte) {
		memory := make([]byte, 3*pagestream.PageSize)
		page := memory[pagestream.PageSize : 2*pagestream.PageSize]
		for len(body) > 0 {
			r, rest, err := Next(body)
			if err != nil {
				return
			}
			if len(rest) >= len(body) {
				t.Fatal("a record takes nothing off its body")
			}
			r.Apply(page)
			body = rest
		}
		for _, b := range [][]byte{memory[:pagestream.PageSize], memory[2*pagestream.PageSize:]} {
			if !bytes.Equal(b, make([]byte, pagestream.PageSize)) {
				t.Fatal("a byte beside the page was written")
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	base := randomPage(1)
	few := bytes.Clone(base)
	for i := range 32 {
		few[1000+i] ^= 0xff
	}
	for name, page := range map[string][]byte{"same": bytes.Clone(base), "32bytes": few, "other": randomPage(2)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(pagestream.PageSize)
			dst := make([]byte, 0, MaxRecord)
			for b.Loop() {
				Append(dst, base, page, MaxRecord)
			}
		})
	}
}
