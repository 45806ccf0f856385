package precopy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagehash"
)

const (
	// fewContents is how many contents of a pages file that nobody knows are sent as such in any case: other processes may have them too.
	fewContents = 512
	// knownShare is the part of a larger pages file that has to be known: the destination has to copy it once more.
	knownShare = 2
)

// FinishContents sends, of the pages files that CRIU dumped into dir, the images of one container, the contents that have not been sent,
// and puts beside each what stands for it. It returns the names of the pages files, which must not be sent. Those in skip are
// not looked at. What is sent is stored when the session is flushed.
//
// It may run beside Final, and for several containers at once.
func (r *Rounds) FinishContents(ctx context.Context, container uint16, dir string, skip []string) ([]string, CopyStats, error) {
	if r.config.Contents == nil {
		return nil, CopyStats{}, nil
	}
	ids, err := images.ListPages(dir)
	if err != nil {
		return nil, CopyStats{}, err
	}
	var (
		mu    sync.Mutex // guards names and sum
		names []string
		sum   CopyStats
	)
	numbers := r.config.Contents.of(container)
	work, all := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for _, id := range ids {
		name := filepath.Base(images.PagesPath(dir, id))
		if slices.Contains(skip, name) {
			continue
		}
		work.Go(func() error {
			out := newContentBatch(r, numbers, container, Urgent)
			stands, err := out.finish(all, dir, id)
			mu.Lock()
			defer mu.Unlock()
			if sum.add(out.stats); stands {
				names = append(names, name)
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, sum, r.fail(fmt.Errorf("private memory in %s: %w", dir, err))
	}
	return names, sum, nil
}

// finish has something stand for a pages file. False: it has to be sent itself.
func (b *contentBatch) finish(ctx context.Context, dir string, id images.PagesID) (bool, error) {
	f, err := images.Open(images.PagesPath(dir, id))
	if err != nil {
		return false, err
	}
	defer f.Close()
	hashes, sum, err := hashPages(f, b.numbers)
	if err != nil || len(hashes) == 0 || len(hashes) > images.MaxContents {
		return false, err
	}
	unknown := 0
	for _, h := range hashes {
		if !b.numbers.Knows(h) {
			unknown++
		}
	}
	if unknown > fewContents && unknown*knownShare > len(hashes) {
		return false, nil
	}
	c, whole, err := b.send(ctx, f, hashes)
	// Others may count on what it has sent.
	if err = errors.Join(err, b.flush(ctx)); err != nil || !whole {
		return false, err
	}
	c.Sum = sum
	if err := os.WriteFile(images.ContentsPath(dir, id), c.Encode(), 0o600); err != nil {
		return false, fmt.Errorf("contents of a pages file: %w", err)
	}
	return true, nil
}

// send sends the pages whose content nobody has sent, and lists the numbers of all; false if there are not enough.
func (b *contentBatch) send(ctx context.Context, f io.ReaderAt, hashes []pagehash.Hash) (c images.Contents, whole bool, err error) {
	c.Numbers = make([]uint32, len(hashes))
	page := make([]byte, pagestream.PageSize)
	for i, h := range hashes {
		if !b.numbers.Knows(h) {
			if _, err := f.ReadAt(page, int64(i)*pagestream.PageSize); err != nil {
				return c, false, fmt.Errorf("read a page: %w", err)
			}
		}
		if c.Numbers[i], whole, err = b.add(ctx, h, page); err != nil || !whole {
			return c, false, err
		}
	}
	return c, true, nil
}

// hashPages hashes the pages of a file, and all of it; of a file that is not of whole pages, none.
func hashPages(f *os.File, numbers *pagehash.Contents) (hashes []pagehash.Hash, sum uint32, err error) {
	st, err := f.Stat()
	if err != nil || st.Size()%pagestream.PageSize != 0 {
		return nil, 0, err
	}
	hashes = make([]pagehash.Hash, 0, st.Size()/pagestream.PageSize)
	buf := make([]byte, min(st.Size(), chunkBytes))
	for at := int64(0); at < st.Size(); {
		part := buf[:min(int64(len(buf)), st.Size()-at)]
		if _, err := f.ReadAt(part, at); err != nil {
			return nil, 0, fmt.Errorf("read pages: %w", err)
		}
		at += int64(len(part))
		sum = images.ContentsSum(sum, part)
		for ; len(part) > 0; part = part[pagestream.PageSize:] {
			hashes = append(hashes, numbers.Hash(part[:pagestream.PageSize]))
		}
	}
	return hashes, sum, nil
}
