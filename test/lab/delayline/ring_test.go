package delayline

import (
	"encoding/binary"
	"testing"
	"time"
)

// FuzzRing sends frames of sizes taken from the input through the smallest ring, with a reader beside the writer: each must
// arrive whole, with its time, in order.
func FuzzRing(f *testing.F) {
	f.Add([]byte{1, 2, 3, 255, 254, 0, 9})
	f.Add(make([]byte, 100))
	long := make([]byte, 3000)
	for i := range long {
		long[i] = byte(i * 37)
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, sizes []byte) {
		r := newRing(0)
		bad := make(chan string, 1)
		go func() {
			defer close(bad)
			for i, s := range sizes {
				frame, due := r.next()
				if want := frameSize(s); len(frame) != want || due != time.Duration(i) || !filled(frame, i) {
					bad <- "a frame is not as it was sent"
					return
				}
				r.release(len(frame))
			}
		}()
		for i, s := range sizes {
			place := r.reserve()
			if len(place) != maxFrame {
				t.Fatalf("place for %d bytes", len(place))
			}
			n := frameSize(s)
			fill(place[:n], i)
			r.commit(n, time.Duration(i))
		}
		if why := <-bad; why != "" {
			t.Fatal(why)
		}
		if r.used != 0 {
			t.Fatalf("%d bytes are left in an empty ring", r.used)
		}
	})
}

func frameSize(b byte) int { return 8 + int(b)*(maxFrame-8)/255 }

// fill marks both ends of a frame: enough to see one that overlaps another.
func fill(frame []byte, i int) {
	binary.NativeEndian.PutUint32(frame, uint32(i))
	binary.NativeEndian.PutUint32(frame[len(frame)-4:], ^uint32(i))
}

func filled(frame []byte, i int) bool {
	return binary.NativeEndian.Uint32(frame) == uint32(i) && binary.NativeEndian.Uint32(frame[len(frame)-4:]) == ^uint32(i)
}
