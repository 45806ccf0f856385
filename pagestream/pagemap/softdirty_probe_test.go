package pagemap

import (
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

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
