package wire

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"godwit.dev/godwit/pagestream"
)

func TestCodecsGiveBackWhatTheyTook(t *testing.T) {
	var e encoder
	var d decoder
	defer e.close()
	defer d.close()
	for _, size := range []int{4096, 5000, MaxData, MaxBlob} {
		text := make([]byte, size)
		fillText(text)
		for r := rungLZ4; r < numRungs; r++ {
			packed, err := e.encode(r, text)
			if err != nil || packed == nil || len(packed) >= size*worth/16 {
				t.Fatalf("%s of %d: %d bytes, %v", r, size, len(packed), err)
			}
			back, err := d.decode(r.codec(), packed, uint32(size))
			if err != nil || !bytes.Equal(back, text) {
				t.Errorf("%s of %d does not come back: %v", r, size, err)
			}
		}
	}
}

func TestWhatDoesNotCompressIsNotWorthIt(t *testing.T) {
	var e encoder
	defer e.close()
	random := make([]byte, MaxData)
	fillRandom(random)
	for c := rungNone; c < numRungs; c++ {
		if packed, err := e.encode(c, random); packed != nil || err != nil {
			t.Errorf("%s: %d bytes, %v", c, len(packed), err)
		}
	}
}

func TestDecompressionIsBoundByTheDeclaredLength(t *testing.T) {
	var e encoder
	var d decoder
	defer e.close()
	defer d.close()
	flat := make([]byte, MaxData)
	for r := rungLZ4; r < numRungs; r++ {
		c := r.codec()
		packed, _ := e.encode(r, flat)
		for _, raw := range []uint32{1, 4096, MaxData - 1, MaxData + 1, MaxBlob, MaxBlob + 1, 1<<32 - 1} {
			if _, err := d.decode(c, packed, raw); !errors.Is(err, ErrProtocol) {
				t.Errorf("%s declared as %d: %v, want ErrProtocol", c, raw, err)
			}
		}
		if _, err := d.decode(c, packed, MaxData); err != nil {
			t.Errorf("%s after bad frames: %v", c, err)
		}
	}
	writer, _ := zstd.NewWriter(nil)
	bomb := writer.EncodeAll(make([]byte, 256<<20), nil)
	writer.Close()
	if _, err := d.decode(codecZstd, bomb, MaxData); !errors.Is(err, ErrProtocol) {
		t.Errorf("bomb: %v, want ErrProtocol", err)
	}
}

func FuzzDecode(f *testing.F) {
	var e encoder
	page := make([]byte, 2*pagestream.PageSize)
	fillText(page)
	for r := rungLZ4; r < numRungs; r++ {
		packed, _ := e.encode(r, page)
		f.Add(byte(r.codec()), append([]byte(nil), packed...), uint32(len(page)))
	}
	var d decoder
	f.Fuzz(func(t *testing.T, c byte, in []byte, raw uint32) {
		out, err := d.decode(codec(c%numCodecs), in, raw)
		if err == nil && codec(c%numCodecs) != codecNone && len(out) != int(raw) {
			t.Errorf("%d bytes, declared as %d", len(out), raw)
		}
	})
}

func TestCompressionNamesAreParsed(t *testing.T) {
	for _, c := range []Compression{Auto, NoCompression, LZ4, Zstd} {
		if got, err := ParseCompression(c.String()); got != c || err != nil {
			t.Errorf("%s: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCompression("gzip"); err == nil {
		t.Error("gzip is accepted")
	}
}

func TestSpoiledMeasurementDoesNotLast(t *testing.T) {
	o := newObserver(Auto, 1, DefaultWindow)
	text := make([]byte, MaxData)
	fillText(text)
	var tries [numRungs]int
	const frame = 50 * time.Millisecond // 10 MB/s
	for range 10 * maxTrialPause / frame {
		took := 2 * time.Millisecond
		r := o.rung([][]byte{text}, MaxData)
		if tries[r]++; tries[r] == 1 {
			took = time.Second // others had the core
		}
		if trial, due := o.trialDue(r); due {
			o.compressed(trial, MaxData, MaxData/3, 2*time.Millisecond)
		}
		wire := uint64(MaxData)
		if r != rungNone {
			o.compressed(r, MaxData, MaxData/3, took)
			wire /= 3
		}
		o.transmitted(transmission{wire: wire, raw: MaxData, rung: r, total: frame, waited: frame, sealing: effort{time.Millisecond, time.Millisecond}})
	}
	if tries[rungNone] > int(5*maxTrialPause/frame) || o.now.Did[rungLZ4].Speed < MaxData*400 || o.now.Did[rungZstd].Speed < MaxData*400 {
		t.Errorf("frames by rung %v, %+v", tries, o.now)
	}
}

func TestTrialsTakeASmallPartOfTheTime(t *testing.T) {
	o := newObserver(Auto, 1, DefaultWindow)
	text := make([]byte, MaxData)
	fillText(text)
	var trials, all time.Duration
	const took = 3 * time.Millisecond
	for range 20000 {
		frame := 500 * time.Microsecond // nothing holds this stream back
		r := o.rung([][]byte{text}, MaxData)
		if trial, due := o.trialDue(r); due {
			frame += took
			trials += took
			o.compressed(trial, MaxData, MaxData/3, took)
		}
		if r != rungNone {
			frame += took
			o.compressed(r, MaxData, MaxData/3, took)
		}
		all += frame
		o.transmitted(transmission{wire: MaxData, raw: MaxData, rung: r, total: frame, sealing: effort{frame, frame}})
	}
	if trials > all/200 || trials == 0 {
		t.Errorf("%v of %v went into trials", trials, all)
	}
}

func TestObserverSamplesByBytesAndLessWhileNothingCompresses(t *testing.T) {
	text, random := make([]byte, MaxData), make([]byte, MaxData)
	fillText(text)
	fillRandom(random)
	o := newObserver(Auto, 1, DefaultWindow)
	if c := o.rung([][]byte{text}, MaxData); c == rungNone {
		t.Error("text is not tried")
	}
	if c := o.rung([][]byte{random[:4096]}, 4096); c == rungNone {
		t.Error("one random page changed the verdict on the frames around it")
	}
	for range sampleEvery / 4096 {
		o.rung([][]byte{random[:4096]}, 4096)
	}
	if c := o.rung([][]byte{random[:4096]}, 4096); c != rungNone {
		t.Errorf("after %d bytes of random pages: %s", sampleEvery, c)
	}
	for range 100 { // the time between samples grows up to its limit
		o.rung([][]byte{random}, MaxData)
	}
	noticed := 0
	for o.rung([][]byte{text}, MaxData) == rungNone {
		noticed += MaxData
	}
	if noticed > sampleRarely {
		t.Errorf("text was noticed after %d bytes, want at most %d", noticed, sampleRarely)
	}
}

func BenchmarkObserveIncompressible(b *testing.B) {
	body := make([]byte, MaxData)
	fillRandom(body)
	o := newObserver(Auto, 1, DefaultWindow)
	b.SetBytes(MaxData)
	for b.Loop() {
		o.rung([][]byte{body}, MaxData)
	}
}
