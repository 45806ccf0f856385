package precopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagehash"
	"godwit.dev/godwit/pagestream/pagemap"
)

// maxContents is how many contents are sent for a pod, 64 MiB: the destination has them beside the images that it makes
// of them, and its store has that much room to spare. Pages files that need more go as they are.
const maxContents = 1 << 14

// Contents is about private memory that CRIU dumps itself while its processes are frozen: pages that a process has
// changed of files which it maps for itself, as relocations of programs and libraries are (criu/include/vma.h,
// vma_entry_can_be_lazy: what has a file is never lazy). They hardly change, and forked processes have most of them in common.
// So each content is sent ahead, once, and after the dump of a pages file only the contents that nobody has sent before, and for each
// page the number of its content.
//
// As that goes by content, it does not matter what becomes of a page between being copied ahead and the dump.
type Contents struct {
	seed uint64 // of the hashes: not for the pod to know
	log  *slog.Logger
	left atomic.Int64 // how many more may be sent

	mu         sync.Mutex // guards containers
	containers map[uint16]*pagehash.Contents
}

// NewContents is for one migration, to a destination that puts pages files together.
func NewContents(log *slog.Logger) (*Contents, error) {
	seed, err := pagehash.NewSeed()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	c := &Contents{seed: seed, log: log, containers: make(map[uint16]*pagehash.Contents)}
	c.left.Store(maxContents)
	return c, nil
}

// of is what was sent for a container.
func (c *Contents) of(container uint16) *pagehash.Contents {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.containers[container] == nil {
		c.containers[container] = pagehash.NewContents(c.seed, &c.left)
	}
	return c.containers[container]
}

// CopyContents sends ahead what CRIU will dump of private memory, as far as the destination has not got it, and returns when
// it is stored. The processes run. It may run beside the rounds.
func (r *Rounds) CopyContents(ctx context.Context, memories []Memory) (CopyStats, error) {
	c := r.config.Contents
	if c == nil || pagemap.ProbeScan() != nil {
		return CopyStats{}, nil
	}
	var sum CopyStats
	for _, m := range memories {
		stats, err := r.contentsOf(ctx, c, m)
		sum.add(stats)
		if err != nil {
			return sum, r.fail(err)
		}
	}
	if sum.Sent == 0 {
		return sum, nil
	}
	if err := r.config.Session.Flush(ctx); err != nil {
		return sum, r.fail(fmt.Errorf("flush: %w", err))
	}
	return sum, nil
}

// contentsOf sends the contents of one process. What it cannot read is dumped later and sent then.
func (r *Rounds) contentsOf(ctx context.Context, c *Contents, m Memory) (CopyStats, error) {
	ranges, err := changedOfFiles(m.PID)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			c.log.Warn("private memory of files is not copied ahead", "pid", m.PID, "error", err)
		}
		return CopyStats{}, nil
	}
	out := newContentBatch(r, c.of(m.Space.Container), m.Space.Container, *r.config.Pace)
	buf := make([]byte, chunkBytes)
	for _, whole := range ranges {
		for at := uint64(0); at < whole.Pages; at += chunkPages {
			part := []pagestream.Range{{Start: whole.Start + at*pagestream.PageSize, Pages: min(chunkPages, whole.Pages-at)}}
			data := buf[:part[0].Bytes()]
			missing, err := pagemap.ReadMemory(m.PID, part, data)
			if err != nil {
				return out.stats, out.flush(ctx) // it has ended
			}
			_, data = without(missing, part, data, nil)
			for ; len(data) > 0; data = data[pagestream.PageSize:] {
				page := data[:pagestream.PageSize]
				if _, ok, err := out.add(ctx, out.numbers.Hash(page), page); err != nil || !ok {
					return out.stats, errors.Join(err, out.flush(ctx))
				}
			}
		}
	}
	err = out.flush(ctx)
	return out.stats, err
}

// changedOfFiles lists the pages that a process has changed of files that it maps for itself, as CRIU would find them (criu/mem.c,
// should_dump_page).
func changedOfFiles(pid int) ([]pagestream.Range, error) {
	vmas, _, err := pagemap.ReadMaps(pid, nil, nil)
	if err != nil {
		return nil, err
	}
	pm, err := pagemap.Open(pid)
	if err != nil {
		return nil, err
	}
	defer pm.Close()
	const not = pagemap.FileBacked | pagemap.ZeroPage
	query := pagemap.Query{Inverted: not, Mask: not, AnyOf: pagemap.Present | pagemap.Swapped}
	var found []pagestream.Range
	var regions [256]pagemap.Region
	for _, v := range vmas {
		if v.Perms&pagemap.Shared != 0 || v.Inode == 0 {
			continue
		}
		query.Start, query.End = v.Start, v.End
		err := pm.Walk(query, regions[:], func(some []pagemap.Region) {
			for _, r := range some {
				found = pagestream.AppendRun(found, pagestream.Range{Start: r.Start, Pages: r.Pages()})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// contentBatch gathers contents that have to be sent.
type contentBatch struct {
	rounds  *Rounds
	numbers *pagehash.Contents
	space   pagestream.Space
	pace    Pace
	stats   CopyStats

	data   []byte
	parts  []pagestream.Range // of data, ascending
	offset []int64
}

func newContentBatch(r *Rounds, numbers *pagehash.Contents, container uint16, pace Pace) *contentBatch {
	return &contentBatch{rounds: r, numbers: numbers, space: pagestream.Space{Container: container, Kind: pagestream.Content}, pace: pace}
}

// add has the content of a page sent, if it has not been, and returns its number; false: there are no more.
func (b *contentBatch) add(ctx context.Context, h pagehash.Hash, page []byte) (number uint32, ok bool, err error) {
	number, fresh, ok := b.numbers.Number(h)
	if !fresh {
		b.stats.Unchanged++
		return number, ok, nil
	}
	r := pagestream.Range{Start: uint64(number) * pagestream.PageSize, Pages: 1}
	if n := len(b.parts); n > 0 && b.parts[n-1].End() == r.Start {
		b.parts[n-1].Pages++
	} else {
		b.parts, b.offset = append(b.parts, r), append(b.offset, int64(len(b.data)))
	}
	if b.data = append(b.data, page...); len(b.data) >= chunkBytes {
		return number, true, b.flush(ctx)
	}
	return number, true, nil
}

// flush hands over what has been gathered.
func (b *contentBatch) flush(ctx context.Context) error {
	if len(b.data) == 0 {
		return nil
	}
	source := &imageSource{pages: bytes.NewReader(b.data), parts: b.parts, offset: b.offset}
	stats, err := b.rounds.copier.copy(ctx, []*area{{space: b.space, source: source, ranges: source.parts}}, b.pace)
	b.stats.add(stats)
	// If ctx has ended a worker may still read what was handed over.
	b.data, b.parts, b.offset = nil, nil, nil
	return err
}
