package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
	"godwit.dev/godwit/nodecontroller/spool"
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/demand"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// errChannel is wrapped by the error for a blob that belongs to no tree.
var errChannel = errors.New("no such tree")

// Bounds of one tree that a peer fills.
const (
	maxRootfs  = 256 << 30 // bytes; of a volume as well
	maxEntries = 16 << 20  // names
)

// receiver takes in what the source's shim sends: pages into the store, records
// of files into their trees. What comes is a peer's: package wire has checked
// spaces and ranges, filetree's appliers check every record.
type receiver struct {
	store      *store.Store
	containers int
	memory     int64 // that the pod's /dev/shm may take, bytes
	// spool takes the records of trees that are not there yet, until it is drained; nil
	// if there is none.
	spool *spool.Spool

	mu     sync.Mutex
	trees  map[uint32]*receivedTree // by channel, guarded by mu
	failed error                    // the first error, guarded by mu
	left   bool                     // pages were left at the source, guarded by mu
}

// receivedTree is one tree that is being brought to the source's state.
type receivedTree struct {
	mu      sync.Mutex // held while records are applied, which have an order
	applier *filetree.Applier
}

func newReceiver(s *store.Store, containers int, memory int64) *receiver {
	return &receiver{store: s, containers: containers, memory: memory, trees: make(map[uint32]*receivedTree)}
}

// openRootfs makes the place for the files of a container's root file system.
func (r *receiver) openRootfs(container int, dir string) error {
	return r.open(shimv1.Channel(uint16(container), shimv1.TreeRootfs), dir, maxRootfs)
}

// openSharedMemory makes the place for the sandbox's /dev/shm.
func (r *receiver) openSharedMemory(dir string) error {
	return r.open(shimv1.Channel(0, shimv1.TreeShm), dir, r.memory)
}

// openVolume makes the place for a volume of the pod.
func (r *receiver) openVolume(number int, dir string) error {
	return r.open(shimv1.Channel(uint16(number), shimv1.TreeVolume), dir, maxRootfs)
}

// openImages makes the places for CRIU's images.
func (r *receiver) openImages() error {
	for i := range r.containers {
		if err := r.openTree(shimv1.Channel(uint16(i), shimv1.TreeImages), r.store.ImagesDir(uint16(i)), r.imageOptions()); err != nil {
			return err
		}
	}
	return nil
}

// imageOptions are those of CRIU's images, of which nobody sees more than what is in them.
func (r *receiver) imageOptions() filetree.ApplyOptions {
	return filetree.ApplyOptions{MaxBytes: r.memory, MaxEntries: maxEntries, Bare: true}
}

// moveImages has an empty directory, of the same file system, be the place for a container's images, of which none has come: else it fails, and
// all is as it was.
func (r *receiver) moveImages(container int, dir string) error {
	a, err := filetree.NewApplier(dir, r.imageOptions())
	if err != nil {
		return fmt.Errorf("tree %s: %w", dir, err)
	}
	// Only an empty directory is replaced; by package os none is.
	if err := unix.Rename(dir, r.store.ImagesDir(uint16(container))); err != nil {
		return errors.Join(fmt.Errorf("directory of container %d's images: %w", container, err), a.Close())
	}
	channel := shimv1.Channel(uint16(container), shimv1.TreeImages)
	r.mu.Lock()
	old := r.trees[channel]
	r.trees[channel] = &receivedTree{applier: a}
	r.mu.Unlock()
	if old == nil {
		return nil
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	return old.applier.Close()
}

func (r *receiver) open(channel uint32, dir string, bytes int64) error {
	return r.openTree(channel, dir, filetree.ApplyOptions{MaxBytes: bytes, MaxEntries: maxEntries})
}

func (r *receiver) openTree(channel uint32, dir string, opts filetree.ApplyOptions) error {
	a, err := filetree.NewApplier(dir, opts)
	if err != nil {
		return fmt.Errorf("tree %s: %w", dir, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trees[channel] != nil {
		return errors.Join(fmt.Errorf("tree %s: channel %d is open already", dir, channel), a.Close())
	}
	r.trees[channel] = &receivedTree{applier: a}
	return nil
}

// Pages stores pages; see wire.Receiver.
func (r *receiver) Pages(space pagestream.Space, vaddr uint64, data []byte) error {
	if err := r.check(space); err != nil {
		return err
	}
	return r.keep(r.store.Pages(space, vaddr, data))
}

// Stored reads pages that were stored; see wire.Receiver.
func (r *receiver) Stored(space pagestream.Space, vaddr uint64, data []byte) error {
	if err := r.check(space); err != nil {
		return err
	}
	return r.keep(r.store.Stored(space, vaddr, data))
}

// Zero makes pages zero; see wire.Receiver.
func (r *receiver) Zero(space pagestream.Space, vaddr, pages uint64) error {
	if err := r.check(space); err != nil {
		return err
	}
	return r.keep(r.store.Zero(space, vaddr, pages))
}

func (r *receiver) check(space pagestream.Space) error {
	if int(space.Container) >= r.containers {
		return r.keep(fmt.Errorf("space %s: the pod has %d containers: %w", space, r.containers, pagestream.ErrInvalid))
	}
	return nil
}

// Blob applies records of files, or spools them, and notes what is left at the source;
// see wire.Receiver.
func (r *receiver) Blob(channel uint32, payload []byte) error {
	if _, tree := shimv1.SplitChannel(channel); tree == shimv1.TreeLeft {
		return r.keep(r.leave(payload))
	}
	if r.spool != nil && r.spool.Has(channel) {
		if err := r.spool.Append(channel, payload); !errors.Is(err, spool.ErrDrained) {
			return r.keep(err)
		}
	}
	return r.keep(r.fill(channel, payload))
}

// fill brings a tree that is open further.
func (r *receiver) fill(channel uint32, records []byte) error {
	r.mu.Lock()
	tree := r.trees[channel]
	r.mu.Unlock()
	if tree == nil {
		return fmt.Errorf("channel %d: %w", channel, errChannel)
	}
	return tree.apply(records)
}

// drain brings the trees, which are open, to where the records are that have come for
// them, and has them take further ones.
func (r *receiver) drain(ctx context.Context, channels []uint32) error {
	for _, channel := range channels {
		err := r.spool.Drain(channel, func(records []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return r.fill(channel, records)
		})
		if err != nil {
			return r.keep(fmt.Errorf("files of the pod: %w", err))
		}
	}
	return nil
}

// leave notes pages that are left at the source.
func (r *receiver) leave(list []byte) error {
	space, ranges, err := demand.DecodeLeft(list)
	if err != nil {
		return err
	}
	if err := r.check(space); err != nil {
		return err
	}
	r.mu.Lock()
	r.left = true
	r.mu.Unlock()
	return r.store.Leave(space, ranges)
}

// leaves says whether pages are left at the source.
func (r *receiver) leaves() bool {
	if r == nil { // of a migration that an earlier daemon took in
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.left
}

func (t *receivedTree) apply(payload []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(payload) > 0 {
		rec, n, err := filetree.DecodeRecord(payload)
		if err != nil {
			return err
		}
		if err := t.applier.Apply(rec); err != nil {
			return err
		}
		payload = payload[n:]
	}
	return nil
}

// Closed hears how the session ended; see wire.Receiver. A session that breaks
// is the source's to notice and to act upon.
func (r *receiver) Closed(err error) {
	if err != nil {
		_ = r.keep(fmt.Errorf("the source's stream broke: %w", err))
	}
}

// keep remembers the first error: a destination that lost a page or a file once
// must never restore.
func (r *receiver) keep(err error) error {
	if err == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = err
	}
	return err
}

// failure is the first error, nil if everything was stored.
func (r *receiver) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// close lets go of the trees. What is still in flight fails.
func (r *receiver) close() error {
	r.mu.Lock()
	trees := r.trees
	r.trees = make(map[uint32]*receivedTree)
	r.mu.Unlock()
	var err error
	for _, t := range trees {
		t.mu.Lock()
		err = errors.Join(err, t.applier.Close())
		t.mu.Unlock()
	}
	if r.spool != nil {
		err = errors.Join(err, r.spool.Close())
	}
	return err
}
