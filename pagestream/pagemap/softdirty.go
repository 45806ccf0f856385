package pagemap

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
)

// ErrNoSoftDirty says that the kernel keeps no soft-dirty bits.
var ErrNoSoftDirty = errors.New("kernel lacks soft-dirty bits: use one with CONFIG_MEM_SOFT_DIRTY, on an architecture that has them")

// ProbeSoftDirty returns nil if the kernel notes which pages are written, and an
// error wrapping ErrNoSoftDirty if not. It asks once.
var ProbeSoftDirty = sync.OnceValue(func() error {
	if err := trySoftDirty(); err != nil {
		return fmt.Errorf("%w (%w)", ErrNoSoftDirty, err)
	}
	return nil
})

// trySoftDirty clears the bits of our own memory, writes one of two pages, and
// looks whether just that one is told. (Without the bits the kernel takes the
// order to clear them and tells no page ever: clear_refs_write in its
// fs/proc/task_mmu.c.) Our memory is protected by that once, and faults in again
// as it is written: a matter of microseconds.
func trySoftDirty() error {
	// Pages that nobody may touch lie around them: the kernel joins areas that touch each other, and tells all pages of one of which a
	// part is new (vma_merge in mm/vma.c lets VM_SOFTDIRTY differ; pagemap_pmd_range). Another thread may map memory at any time.
	around, err := unix.Mmap(-1, 0, 4*pagestream.PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	defer unix.Munmap(around)
	mem := around[pagestream.PageSize : 3*pagestream.PageSize]
	if err := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("map memory: %w", err)
	}
	mem[0], mem[pagestream.PageSize] = 1, 1
	f, err := Open(os.Getpid())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("4"), 0); err != nil {
		return fmt.Errorf("clear soft-dirty bits: %w", err)
	}
	mem[0] = 2
	var pages [2]Entry
	if err := f.ReadEntries(address(mem), pages[:]); err != nil {
		return err
	}
	switch {
	case !pages[0].SoftDirty():
		return errors.New("a page that was written is not told")
	case pages[1].SoftDirty():
		return errors.New("a page that was not written is told")
	}
	return nil
}
