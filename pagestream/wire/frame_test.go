package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
)

func TestHeaderSurvivesEncoding(t *testing.T) {
	for _, h := range []header{
		{kind: framePages, runs: 3, raw: 8192, body: 8192, space: space},
		{kind: framePages, runs: maxRuns, raw: MaxData, body: 17, codec: codecZstd,
			space: pagestream.Space{Container: 1023, Kind: pagestream.Shared, ID: 1<<32 - 1}},
		{kind: framePages, runs: 1, space: space},
		{kind: frameBlob, raw: MaxBlob, body: MaxBlob, channel: 1<<32 - 1},
		{kind: frameBlob},
		{kind: frameDeltas, runs: 2, raw: maxDeltas, body: maxDeltas, space: space},
		{kind: frameBarrier}, {kind: frameBye},
		{kind: frameAbort, raw: MaxText, body: MaxText},
		{kind: frameAck, stored: 1, received: 1 << 63},
		{kind: frameError, raw: 1, body: 1},
	} {
		var b [headerSize]byte
		h.encode(&b)
		got, err := decodeHeader(&b)
		if err != nil || got != h {
			t.Errorf("decoded %+v, %v; want %+v", got, err, h)
		}
	}
}

func TestHeaderOutOfBoundsIsRefused(t *testing.T) {
	for name, h := range map[string]header{
		"no type":                   {},
		"unknown type":              {kind: 9},
		"unknown codec":             {kind: frameBlob, codec: numCodecs, raw: 10, body: 5},
		"pages without runs":        {kind: framePages, space: space},
		"pages without space":       {kind: framePages, runs: 1, raw: 4096, body: 4096},
		"half a page":               {kind: framePages, runs: 1, raw: 2048, body: 2048, space: space},
		"too much data":             {kind: framePages, runs: 1, raw: MaxData + 4096, body: MaxData + 4096, space: space},
		"bomb":                      {kind: framePages, runs: 1, raw: 1 << 31, body: 10, codec: codecLZ4, space: space},
		"too many runs":             {kind: framePages, runs: maxRuns + 1, space: space},
		"too large a blob":          {kind: frameBlob, raw: MaxBlob + 1, body: MaxBlob + 1},
		"body longer than raw":      {kind: frameBlob, raw: 10, body: 11},
		"compressed but not less":   {kind: frameBlob, codec: codecLZ4, raw: 10, body: 10},
		"plain but less":            {kind: frameBlob, raw: 10, body: 9},
		"deltas without runs":       {kind: frameDeltas, raw: 20, body: 20, space: space},
		"deltas without records":    {kind: frameDeltas, runs: 1, space: space},
		"deltas without space":      {kind: frameDeltas, runs: 1, raw: 20, body: 20},
		"too many deltas":           {kind: frameDeltas, runs: 1, raw: maxDeltas + 1, body: maxDeltas + 1, space: space},
		"deltas compressed":         {kind: frameDeltas, codec: codecLZ4, runs: 1, raw: 20, body: 10, space: space},
		"blob with runs":            {kind: frameBlob, runs: 1},
		"blob with a space":         {kind: frameBlob, space: space},
		"pages with a channel":      {kind: framePages, runs: 1, space: space, channel: 1},
		"pages that acknowledge":    {kind: framePages, runs: 1, space: space, stored: 1},
		"barrier with a body":       {kind: frameBarrier, raw: 1, body: 1},
		"ack with a body":           {kind: frameAck, raw: 1, body: 1},
		"error that is too long":    {kind: frameError, raw: MaxText + 1, body: MaxText + 1},
		"error that is compressed":  {kind: frameError, codec: codecLZ4, raw: 10, body: 5},
		"goodbye that acknowledges": {kind: frameBye, received: 1},
	} {
		var b [headerSize]byte
		h.encode(&b)
		if got, err := decodeHeader(&b); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %+v, %v, want ErrProtocol", name, got, err)
		}
	}
	for _, at := range []int{2, 3, 23} {
		var b [headerSize]byte
		(&header{kind: frameBarrier}).encode(&b)
		b[at] = 1
		if _, err := decodeHeader(&b); !errors.Is(err, ErrProtocol) {
			t.Errorf("flag at byte %d: %v, want ErrProtocol", at, err)
		}
	}
}

func TestChecksumDoesNotDependOnPieces(t *testing.T) {
	body := make([]byte, 100<<10)
	fillRandom(body)
	table := body[:48]
	var head [headerSize]byte
	(&header{kind: framePages, runs: 3}).encode(&head)
	want := checksum(&head, table, [][]byte{body}, nil)
	var hasher xxh3.Hasher
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var pieces [][]byte
		for rest := body; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(20<<10))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		if got := checksum(&head, table, pieces, &hasher); got != want {
			t.Fatalf("%d pieces: %x, want %x", len(pieces), got, want)
		}
	}
	if checksum(&head, nil, nil, nil) != checksum(&head, nil, [][]byte{{}}, nil) {
		t.Error("no body and an empty body differ")
	}
}

func TestChecksumCoversEveryPart(t *testing.T) {
	body, table := []byte("body of a frame"), make([]byte, runSize)
	var head [headerSize]byte
	(&header{kind: framePages, runs: 1}).encode(&head)
	want := checksum(&head, table, [][]byte{body}, nil)
	for _, part := range [][]byte{head[:sumOffset], table, body} {
		for i := range part {
			part[i] ^= 0x10
			if checksum(&head, table, [][]byte{body}, nil) == want {
				t.Errorf("a changed byte %d of %d is not seen", i, len(part))
			}
			part[i] ^= 0x10
		}
	}
}

func table(runs ...run) []byte {
	var b []byte
	for _, r := range runs {
		b = appendRun(b, r)
	}
	return b
}

func data(start, pages uint64) run {
	return run{Range: pagestream.Range{Start: start, Pages: pages}}
}
func zeros(start, pages uint64) run {
	return run{Range: pagestream.Range{Start: start, Pages: pages}, zero: true}
}

func TestRunTableAddsUpToItsBody(t *testing.T) {
	for _, c := range []struct {
		name  string
		table []byte
		raw   uint32
		ok    bool
	}{
		{"one", table(data(4096, 2)), 8192, true},
		{"mixed", table(zeros(0, 1<<40), data(4096, 2), zeros(8192, 1), data(0, 1)), 3 * 4096, true},
		{"only zero", table(zeros(0, 1)), 0, true},
		{"too little body", table(data(4096, 2)), 4096, false},
		{"too much body", table(data(4096, 2)), 3 * 4096, false},
		{"no page boundary", table(data(1, 1)), 4096, false},
		{"no pages", table(data(0, 0)), 0, false},
		{"over the top", table(zeros(pagestream.MaxAddress-4096, 2)), 0, false},
		{"wraps", table(data(4096, 1<<52)), 4096, false},
		{"torn", table(data(0, 1))[:15], 4096, false},
	} {
		_, err := decodeRuns(nil, c.table, c.raw)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want ok %v", c.name, err, c.ok)
		}
	}
}

func TestBatchMergesNeighboursOfOneKind(t *testing.T) {
	var b batch
	b.add(data(0x1000, 1), 0)
	b.add(data(0x2000, 2), 4096)
	b.add(zeros(0x4000, 1), 0)
	b.add(zeros(0x5000, 1), 0)
	b.add(data(0x6000, 1), 5*4096)
	b.closeTable()
	want := table(data(0x1000, 3), zeros(0x4000, 2), data(0x6000, 1))
	if !bytes.Equal(b.table, want) {
		t.Errorf("table %x, want %x", b.table, want)
	}
	if len(b.spans) != 2 || b.spans[0] != (span{0, 3 * 4096}) || b.spans[1] != (span{5 * 4096, 6 * 4096}) {
		t.Errorf("spans %v", b.spans)
	}
	if b.raw != 4*4096 || b.zeros != 2 {
		t.Errorf("%d bytes, %d zero pages", b.raw, b.zeros)
	}
}

func TestEveryByteOfAPageCountsForZero(t *testing.T) {
	page := make([]byte, pagestream.PageSize)
	if !isZero(page) {
		t.Error("a zero page is not seen as one")
	}
	for i := range page {
		page[i] = 1
		if isZero(page) {
			t.Errorf("byte %d is not looked at", i)
		}
		page[i] = 0
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range []header{
		{kind: framePages, runs: 3, raw: 8192, body: 8192, space: space},
		{kind: frameBlob, raw: 100, body: 50, codec: codecLZ4, channel: 7},
		{kind: frameAck, stored: 5, received: 6},
		{kind: frameError, raw: 5, body: 5},
	} {
		var b [headerSize]byte
		h.encode(&b)
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var b [headerSize]byte
		copy(b[:], in)
		h, err := decodeHeader(&b)
		if err != nil {
			return
		}
		if h.raw > MaxBlob || h.body > h.raw || h.runs > maxRuns || h.wireSize() > headerSize+maxTable+MaxBlob {
			t.Errorf("out of bounds: %+v", h)
		}
		var again [headerSize]byte
		h.encode(&again)
		if !bytes.Equal(again[:sumOffset], b[:sumOffset]) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzRuns(f *testing.F) {
	f.Add(table(data(4096, 2), zeros(0, 1<<40)), uint32(8192))
	f.Add(table(data(4096, 1<<52)), uint32(4096))
	f.Add([]byte{1, 2, 3}, uint32(0))
	f.Fuzz(func(t *testing.T, in []byte, raw uint32) {
		runs, err := decodeRuns(nil, in, raw)
		if err != nil {
			return
		}
		var pages uint64
		for _, r := range runs {
			if err := r.Valid(); err != nil {
				t.Error(err)
			}
			if !r.zero {
				pages += r.Pages
			}
		}
		if pages != uint64(raw)/pagestream.PageSize {
			t.Errorf("%d pages for %d bytes", pages, raw)
		}
		if !bytes.Equal(table(runs...), in) {
			t.Errorf("%x became %x", in, table(runs...))
		}
	})
}

// bounded is a receiver that checks what the protocol promises it.
type bounded struct{ t *testing.T }

func (r bounded) Pages(space pagestream.Space, vaddr uint64, data []byte) error {
	whole := pagestream.Range{Start: vaddr, Pages: uint64(len(data)) / pagestream.PageSize}
	if err := errors.Join(space.Valid(), whole.Valid()); err != nil || len(data) > MaxData || len(data)%pagestream.PageSize != 0 {
		r.t.Errorf("%d bytes at %#x of %s: %v", len(data), vaddr, space, err)
	}
	return nil
}

func (r bounded) Stored(space pagestream.Space, vaddr uint64, data []byte) error {
	clear(data)
	return r.Pages(space, vaddr, data)
}

func (r bounded) Zero(space pagestream.Space, vaddr, pages uint64) error {
	whole := pagestream.Range{Start: vaddr, Pages: pages}
	if err := errors.Join(space.Valid(), whole.Valid()); err != nil {
		r.t.Error(err)
	}
	return nil
}

func (r bounded) Blob(_ uint32, payload []byte) error {
	if len(payload) > MaxBlob {
		r.t.Errorf("blob of %d bytes", len(payload))
	}
	return nil
}

func (bounded) Closed(error) {}

// FuzzReception feeds a receiver with a frame whose checksum is right,
// whatever else it is.
func FuzzReception(f *testing.F) {
	var e encoder
	page := make([]byte, 4*pagestream.PageSize)
	fillText(page)
	for r := rungNone; r < numRungs; r++ {
		body, c := page, r.codec()
		if c != codecNone {
			body, _ = e.encode(r, page)
		}
		body = append([]byte(nil), body...)
		head := new([headerSize]byte)
		runs := table(data(0, 3), zeros(0x9000, 5), data(0x7000, 1))
		h := header{kind: framePages, codec: c, runs: 3, raw: uint32(len(page)), body: uint32(len(body)), space: space}
		h.encode(head)
		f.Add(head[:], append(runs, body...))
		h = header{kind: frameBlob, codec: c, raw: uint32(len(page)), body: uint32(len(body)), channel: 1}
		h.encode(head)
		f.Add(head[:], body)
	}
	page = page[:pagestream.PageSize]
	clear(page)
	page[100] = 1
	record, _ := delta.Append(nil, make([]byte, pagestream.PageSize), page, delta.MaxRecord)
	head := new([headerSize]byte)
	h := header{kind: frameDeltas, runs: 1, raw: uint32(len(record)), body: uint32(len(record)), space: space}
	h.encode(head)
	f.Add(head[:], append(table(data(0, 1)), record...))
	f.Fuzz(func(t *testing.T, start, rest []byte) {
		var head [headerSize]byte
		copy(head[:], start)
		n := min(int(binary.LittleEndian.Uint32(head[4:])), maxRuns) * runSize
		n = min(n, len(rest))
		binary.LittleEndian.PutUint64(head[sumOffset:], checksum(&head, rest[:n], [][]byte{rest[n:]}, nil))
		r := &reception{receiver: bounded{t}, reader: bytes.NewReader(append(head[:], rest...)),
			payload: make([]byte, maxTable+MaxBlob), ackedAt: time.Now(), progress: time.Hour, deltas: true}
		defer r.decoder.close()
		h, runs, body, err := r.next()
		if err == nil {
			err = r.deliver(&h, runs, body)
		}
		if err == nil && len(r.decoder.out) > MaxBlob {
			t.Errorf("decoded %d bytes", len(r.decoder.out))
		}
	})
}
