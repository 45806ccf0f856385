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
		for _, c := range []codec{codecLZ4, codecZstd} {
			packed, err := e.encode(c, text)
			if err != nil || packed == nil || len(packed) >= size*worth/16 {
				t.Fatalf("%s of %d: %d bytes, %v", c, size, len(packed), err)
			}
			back, err := d.decode(c, packed, uint32(size))
			if err != nil || !bytes.Equal(back, text) {
				t.Errorf("%s of %d does not come back: %v", c, size, err)
			}
		}
	}
}

func TestWhatDoesNotCompressIsNotWorthIt(t *testing.T) {
	var e encoder
	defer e.close()
	random := make([]byte, MaxData)
	fillRandom(random)
	for _, c := range []codec{codecNone, codecLZ4, codecZstd} {
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
	for _, c := range []codec{codecLZ4, codecZstd} {
		packed, _ := e.encode(c, flat)
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
	for _, c := range []codec{codecLZ4, codecZstd} {
		packed, _ := e.encode(c, page)
		f.Add(byte(c), append([]byte(nil), packed...), uint32(len(page)))
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

func TestCodecIsChosenByWhatItGains(t *testing.T) {
	const gigabit = 125e6
	lz4 := performance{Known: true, Ratio: 0.4, Speed: 700e6}
	zstd := performance{Known: true, Ratio: 0.28, Speed: 250e6}
	useless := performance{Known: true, Ratio: 0.97, Speed: 700e6}
	for _, c := range []struct {
		name string
		in   conditions
		want codec
	}{
		{"incompressible on a slow link", conditions{Sample: 1, Link: 1e6, LZ4: lz4, Zstd: zstd}, codecNone},
		{"sample at the limit", conditions{Sample: incompressible, Link: 1e6, LZ4: lz4, Zstd: zstd}, codecNone},
		{"nothing known", conditions{Sample: 0.5}, codecLZ4},
		{"zstd not known", conditions{Sample: 0.5, LZ4: lz4}, codecZstd},
		{"not held back", conditions{Sample: 0.5, LZ4: lz4, Zstd: zstd}, codecNone},
		{"fast link", conditions{Sample: 0.5, Link: 1e9, LZ4: lz4, Zstd: zstd}, codecNone},
		{"a quarter of a gigabyte", conditions{Sample: 0.5, Link: 250e6, LZ4: lz4, Zstd: zstd}, codecLZ4},
		{"a quarter of a gigabit for each stream", conditions{Sample: 0.5, Link: gigabit / 4, LZ4: lz4, Zstd: zstd}, codecZstd},
		{"slow link, half a core", conditions{Sample: 0.5, Link: gigabit / 4, CPU: 0.5, LZ4: lz4, Zstd: zstd}, codecZstd},
		{"gigabit, a tenth of a core", conditions{Sample: 0.5, Link: gigabit, CPU: 0.1, LZ4: lz4, Zstd: zstd}, codecNone},
		{"the sample deceives", conditions{Sample: 0.5, Link: 1e6, LZ4: useless, Zstd: useless}, codecNone},
		{"lz4 is useless, zstd is not", conditions{Sample: 0.9, Link: 1e6, LZ4: useless, Zstd: zstd}, codecZstd},
		{"encryption is the bottleneck", conditions{Sample: 0.2, Transmit: 100e6, Zstd: zstd,
			LZ4: performance{Known: true, Ratio: 0.1, Speed: 1e9}}, codecLZ4},
		{"a little better does not make it change", conditions{Sample: 0.5, Link: 100e6, Current: codecLZ4,
			LZ4: lz4, Zstd: performance{Known: true, Ratio: 0.385, Speed: 600e6}}, codecLZ4},
		{"much better does", conditions{Sample: 0.5, Link: 100e6, Current: codecLZ4,
			LZ4: lz4, Zstd: performance{Known: true, Ratio: 0.3, Speed: 600e6}}, codecZstd},
	} {
		if c.in.CPU == 0 {
			c.in.CPU = 1
		}
		if c.in.Transmit == 0 {
			c.in.Transmit = 1.2e9
		}
		if got := choose(c.in); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestObserverSeesWhetherTheLinkHoldsBack(t *testing.T) {
	frame := transmission{wire: MaxData, total: time.Millisecond, sealing: 200 * time.Microsecond}
	free, held, slowKernel := frame, frame, frame
	free.kernel = 200 * time.Microsecond // as fast as a copy
	held.waited = 700 * time.Microsecond
	slowKernel.kernel = 800 * time.Microsecond
	for name, c := range map[string]struct {
		sent transmission
		link float64
	}{
		"free": {free, 0}, "waits for the window": {held, MaxData * 1000}, "waits in the kernel": {slowKernel, MaxData * 1000},
	} {
		o := newObserver(Auto, 1, DefaultWindow)
		for range 60 {
			o.transmitted(c.sent)
		}
		if o.now.Link != c.link {
			t.Errorf("%s: link %g, want %g", name, o.now.Link, c.link)
		}
		if want := 1 / (200e-6/MaxData + 1/kernelCopy); o.now.Transmit < want*0.99 || o.now.Transmit > want*1.01 {
			t.Errorf("%s: transmits %g, want %g", name, o.now.Transmit, want)
		}
	}
}

func TestSpoiledMeasurementDoesNotLast(t *testing.T) {
	o := newObserver(Auto, 1, DefaultWindow)
	text := make([]byte, MaxData)
	fillText(text)
	var tries [numCodecs]int
	const frame = 50 * time.Millisecond // 10 MB/s
	for range 10 * maxTrialPause / frame {
		took := 2 * time.Millisecond
		c := o.codec([][]byte{text}, MaxData)
		if tries[c]++; tries[c] == 1 {
			took = time.Second // others had the core
		}
		wire := uint64(MaxData)
		if c != codecNone {
			o.compressed(c, MaxData, MaxData/3, took)
			wire /= 3
		}
		o.transmitted(transmission{wire: wire, total: frame, waited: frame})
	}
	if tries[codecNone] > int(5*maxTrialPause/frame) || o.now.LZ4.Speed < MaxData*400 || o.now.Zstd.Speed < MaxData*400 {
		t.Errorf("frames by codec %v, %+v", tries, o.now)
	}
}

func TestTrialsTakeASmallPartOfTheTime(t *testing.T) {
	o := newObserver(Auto, 1, DefaultWindow)
	text := make([]byte, MaxData)
	fillText(text)
	var trials, all time.Duration
	for range 5000 {
		frame := 500 * time.Microsecond // nothing holds this stream back
		if c := o.codec([][]byte{text}, MaxData); c != codecNone {
			frame += 3 * time.Millisecond
			trials += 3 * time.Millisecond
			o.compressed(c, MaxData, MaxData/3, 3*time.Millisecond)
		}
		all += frame
		o.transmitted(transmission{wire: MaxData, total: frame, sealing: 100 * time.Microsecond})
	}
	if trials > all/30 || trials == 0 {
		t.Errorf("%v of %v went into trials", trials, all)
	}
}

func TestObserverSamplesByBytesAndLessWhileNothingCompresses(t *testing.T) {
	text, random := make([]byte, MaxData), make([]byte, MaxData)
	fillText(text)
	fillRandom(random)
	o := newObserver(Auto, 1, DefaultWindow)
	if c := o.codec([][]byte{text}, MaxData); c == codecNone {
		t.Error("text is not tried")
	}
	if c := o.codec([][]byte{random[:4096]}, 4096); c == codecNone {
		t.Error("one random page changed the verdict on the frames around it")
	}
	for range sampleEvery / 4096 {
		o.codec([][]byte{random[:4096]}, 4096)
	}
	if c := o.codec([][]byte{random[:4096]}, 4096); c != codecNone {
		t.Errorf("after %d bytes of random pages: %s", sampleEvery, c)
	}
	for range 100 { // the time between samples grows up to its limit
		o.codec([][]byte{random}, MaxData)
	}
	noticed := 0
	for o.codec([][]byte{text}, MaxData) == codecNone {
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
		o.codec([][]byte{body}, MaxData)
	}
}
