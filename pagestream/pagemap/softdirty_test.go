package pagemap

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

func TestSoftDirtyProbeAgreesWithTheKernelsConfiguration(t *testing.T) {
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		t.Skip("the kernel does not tell its configuration")
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	has := strings.Contains(string(config), "\nCONFIG_MEM_SOFT_DIRTY=y\n")
	err = ProbeSoftDirty()
	if (err == nil) != has || err != nil && !errors.Is(err, ErrNoSoftDirty) {
		t.Errorf("configured %v, probed %v", has, err)
	}
}

func TestSoftDirtyBitsAreFoundWhateverOtherThreadsMap(t *testing.T) {
	if err := ProbeSoftDirty(); err != nil {
		t.Skip(err)
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	defer others.Wait()
	defer close(done)
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			mem, err := unix.Mmap(-1, 0, pagestream.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				t.Error(err)
				return
			}
			unix.Munmap(mem)
		}
	})
	for range 100 {
		if err := trySoftDirty(); err != nil {
			t.Fatal(err)
		}
	}
}

// A frame that is no page of zeros would be another page's one day, which would be taken for one of zeros then.
func TestTheFrameOfZerosIsTheSameWhoeverLooks(t *testing.T) {
	frame := ZeroFrame()
	held := mapping(t, 64) // what was looked at may be given to others now
	for p := range 64 {
		held[p*page] = 1
	}
	f, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries [64]Entry
	if err := f.ReadEntries(addr(held), entries[:]); err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if e.Frame() == frame && frame != 0 {
			t.Errorf("page %d, which was written, is in frame %d, that of zeros", i, frame)
		}
	}
	if again := ZeroFrame(); again != frame {
		t.Errorf("the frame of zeros is %d and then %d", frame, again)
	}
}
