package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"godwit.dev/godwit/pagestream"
	"golang.org/x/sys/unix"
)

const pageSize = pagestream.PageSize

// proc is a process' space of container 0.
func proc(pid uint64) pagestream.Space {
	return pagestream.Space{Kind: pagestream.Process, ID: pid}
}

// newStore makes a store that is gone after the test; without the right to
// mount, the test is skipped.
func newStore(t testing.TB, limit int64) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "store"), Options{Limit: limit})
	if errors.Is(err, unix.EPERM) {
		t.Skip("no right to mount:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// content is pages that can be told from all others.
func content(seed uint64, pages int) []byte {
	b := make([]byte, pages*pageSize)
	r := rand.NewPCG(seed, 1)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seal(t testing.TB, s *Store) *Reader {
	t.Helper()
	must(t, s.Seal())
	r, err := OpenSealed(s.Dir())
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

func TestLaterPagesReplaceEarlierOnes(t *testing.T) {
	s := newStore(t, 64<<20)
	a := content(1, 8)
	must(t, s.Pages(proc(1), 0x10000, a))
	must(t, s.Zero(proc(1), 0x12000, 3))
	b := content(2, 2)
	must(t, s.Pages(proc(1), 0x13000, b))
	must(t, s.Zero(proc(1), 0x7fffffff0000, 4))
	want := slices.Clone(a)
	clear(want[2*pageSize : 3*pageSize])
	copy(want[3*pageSize:], b)

	st, err := s.Stats()
	must(t, err)
	if st.DataPages != 7 || st.ZeroPages != 5 || st.Spaces != 1 {
		t.Fatalf("stats %+v", st)
	}
	r := seal(t, s)
	for i := range 8 {
		got, ok := r.Lookup(proc(1), 0x10000+uint64(i)*pageSize+17)
		if !ok {
			t.Fatalf("page %d is not there", i)
		}
		if i == 2 {
			if got != nil {
				t.Fatal("page 2 has content")
			}
			continue
		}
		if !bytes.Equal(got, want[i*pageSize:(i+1)*pageSize]) {
			t.Fatalf("page %d differs", i)
		}
	}
	if _, ok := r.Lookup(proc(1), 0x18000); ok {
		t.Fatal("a page behind the last is there")
	}
	if _, ok := r.Lookup(proc(2), 0x10000); ok {
		t.Fatal("a page of another space is there")
	}
	var got []string
	for e := range r.Extents(proc(1)) {
		got = append(got, fmt.Sprintf("%#x+%d %v", e.Vaddr, e.Pages, e.Data == nil))
	}
	if want := []string{"0x10000+2 false", "0x12000+1 true", "0x13000+5 false", "0x7fffffff0000+4 true"}; !slices.Equal(got, want) {
		t.Fatalf("extents %q", got)
	}
	if err := s.Pages(proc(1), 0x10000, a); !errors.Is(err, ErrState) {
		t.Fatalf("a sealed store took pages: %v", err)
	}
}

// TestConcurrentStreamsStoreWhatAModelSays has streams write random runs, each
// in pages of its own between those of the others, over several rounds.
func TestConcurrentStreamsStoreWhatAModelSays(t *testing.T) {
	s := newStore(t, 256<<20)
	const streams, spread = 4, 4000
	model := make([]map[uint64]uint64, streams) // page to seed, 0: zero
	for round := range 3 {
		var wg sync.WaitGroup
		for n := range streams {
			if model[n] == nil {
				model[n] = make(map[uint64]uint64)
			}
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(n)))
				for range 150 {
					run := 1 + r.Uint64N(16)
					at := r.Uint64N(spread)*16*streams + uint64(n)*16
					seed := r.Uint64() | 1
					var err error
					if r.IntN(4) == 0 {
						seed = 0
						err = s.Zero(proc(7), at*pageSize, run)
					} else {
						var b []byte
						for i := range run {
							b = append(b, content(seed+i, 1)...)
						}
						err = s.Pages(proc(7), at*pageSize, b)
					}
					if err != nil {
						t.Error(err)
						return
					}
					for i := range run {
						model[n][at+i] = 0
						if seed != 0 {
							model[n][at+i] = seed + i
						}
					}
				}
			})
		}
		wg.Wait()
	}
	st, err := s.Stats()
	must(t, err)
	all := 0
	for _, m := range model {
		all += len(m)
	}
	if got := st.DataPages + st.ZeroPages; got != uint64(all) {
		t.Fatalf("%d pages are held, want %d", got, all)
	}
	r := seal(t, s)
	found := 0
	for e := range r.Extents(proc(7)) {
		for i := range e.Pages {
			page := e.Vaddr/pageSize + i
			seed, ok := model[page/16%streams][page]
			if !ok {
				t.Fatalf("page %#x was never sent", page)
			}
			found++
			if seed == 0 != (e.Data == nil) {
				t.Fatalf("page %#x: zero is %v", page, e.Data == nil)
			}
			if seed != 0 && !bytes.Equal(e.Data[i*pageSize:(i+1)*pageSize], content(seed, 1)) {
				t.Fatalf("page %#x differs", page)
			}
		}
	}
	if found != all {
		t.Fatalf("%d pages were found, want %d", found, all)
	}
}

func TestLimitIsAClearErrorHoweverItIsReached(t *testing.T) {
	for name, fill := range map[string]func(s *Store, i uint64) error{
		"content": func(s *Store, i uint64) error {
			return s.Pages(proc(1), i<<18, content(i, 64))
		},
		// One page in each 2 MiB costs more index than content.
		"sparse zeros": func(s *Store, i uint64) error { return s.Zero(proc(1), i<<21, 1) },
		// Whole areas of zeros cost a key each.
		"vast zeros": func(s *Store, i uint64) error { return s.Zero(proc(1), i<<36, MaxZeroPages) },
		"spaces":     func(s *Store, i uint64) error { return s.Zero(proc(i+1), 0x1000, 1) },
		"images": func(s *Store, i uint64) error {
			// What others write takes of the same tmpfs.
			err := os.WriteFile(filepath.Join(s.ImagesDir(0), fmt.Sprint(i)), make([]byte, 1<<20), 0o600)
			if errors.Is(err, unix.ENOSPC) {
				return s.Pages(proc(1), 0x1000, content(1, 1))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, 4<<20)
			for i := uint64(0); ; i++ {
				err := fill(s, i)
				if errors.Is(err, ErrFull) {
					if !strings.Contains(err.Error(), "4194304") || !strings.Contains(err.Error(), "raise") {
						t.Fatalf("the error names no limit or no remedy: %v", err)
					}
					break
				}
				must(t, err)
				if i > 10000 {
					t.Fatal("the limit was never reached")
				}
			}
			st, err := s.Stats()
			must(t, err)
			if st.Used > st.Limit || st.Resident > st.Limit {
				t.Fatalf("over the limit: %+v", st)
			}
		})
	}
}

func TestStoreBrokenByAFailedWriteIsNotSealed(t *testing.T) {
	s := newStore(t, 4<<20)
	must(t, s.Pages(proc(1), 0x1000, content(1, 1)))
	must(t, os.WriteFile(filepath.Join(s.ImagesDir(0), "x"), make([]byte, 4<<20-5*pageSize), 0o600))
	var err error
	for i := uint64(0); err == nil && i < 16; i++ {
		err = s.Pages(proc(1), 0x10000+i*pageSize, content(2, 1))
	}
	if !errors.Is(err, ErrFull) {
		t.Fatalf("a full tmpfs took pages: %v", err)
	}
	if err := s.Seal(); !errors.Is(err, ErrFull) {
		t.Fatalf("sealed all the same: %v", err)
	}
}

func TestWhatCannotBeIsRejected(t *testing.T) {
	s := newStore(t, 4<<20)
	page := content(1, 1)
	for name, err := range map[string]error{
		"half a page":  s.Pages(proc(1), 0x1000, page[:17]),
		"no page":      s.Pages(proc(1), 0x1000, nil),
		"off a page":   s.Pages(proc(1), 0x1001, page),
		"over the top": s.Pages(proc(1), pagestream.MaxAddress-pageSize, content(1, 2)),
		"wraps around": s.Zero(proc(1), 0x1000, 1<<52),
		"too many":     s.Zero(proc(1), 0, MaxZeroPages+1),
		"pid 0":        s.Pages(proc(0), 0x1000, page),
		"no kind":      s.Pages(pagestream.Space{ID: 1}, 0x1000, page),
		"container":    s.Zero(pagestream.Space{Container: 1 << 15, Kind: pagestream.Process, ID: 1}, 0x1000, 1),
	} {
		if !errors.Is(err, pagestream.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, s.Pages(proc(1), pagestream.MaxAddress-pageSize, page))
}

func TestDropSpaceGivesMemoryBack(t *testing.T) {
	s := newStore(t, 16<<20)
	for i := range 20 { // 20 times 4 MiB would not fit
		must(t, s.Pages(proc(1), 0x100000, content(1, 1024)))
		must(t, s.Zero(proc(1), 1<<40, 5000))
		must(t, s.DropSpace(proc(1)))
		if used := s.used.Load(); used != 0 {
			t.Fatalf("after drop %d, %d bytes are in use", i, used)
		}
	}
	must(t, s.DropSpace(proc(1)))
	if r := seal(t, s); r.Space(proc(1)) != nil {
		t.Fatal("a dropped space was sealed")
	}
}

func TestRemoveLeavesNothingAndCleanupWhatADeadProcessLeft(t *testing.T) {
	s := newStore(t, 4<<20)
	must(t, s.Pages(proc(1), 0x1000, content(1, 1)))
	busy, err := os.Open(dataPath(s.Dir(), proc(1)))
	must(t, err)
	defer busy.Close()
	must(t, s.Close())
	must(t, s.Close())
	if err := s.Pages(proc(1), 0x1000, content(1, 1)); !errors.Is(err, ErrState) {
		t.Fatalf("a closed store took pages: %v", err)
	}
	must(t, s.Remove())
	must(t, s.Remove())
	if _, err := os.Lstat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the directory is still there: %v", err)
	}

	dead, err := Create(s.Dir(), Options{Limit: 4 << 20}) // never closed
	must(t, err)
	must(t, dead.Pages(proc(1), 0x1000, content(1, 1)))
	if _, err := Create(s.Dir(), Options{Limit: 4 << 20}); err == nil {
		t.Fatal("a second store was mounted over the first")
	}
	must(t, Cleanup(s.Dir()))
	must(t, Cleanup(s.Dir()))
	if _, err := os.Lstat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the directory is still there: %v", err)
	}
	dead.Close()
}

func TestSealedStoreIsReadOnlyAfterItsIndexesWereChecked(t *testing.T) {
	s := newStore(t, 16<<20)
	must(t, s.Pages(proc(1), 0x1000, content(1, 4)))
	if _, err := OpenSealed(s.Dir()); !errors.Is(err, ErrState) {
		t.Fatalf("an open store was opened as sealed: %v", err)
	}
	must(t, s.Seal())
	index, data := indexPath(s.Dir(), proc(1)), dataPath(s.Dir(), proc(1))
	whole, err := os.ReadFile(index)
	must(t, err)
	for name, damage := range map[string]func(){
		"a flipped bit": func() {
			b := slices.Clone(whole)
			b[len(b)-1] ^= 1
			must(t, os.WriteFile(index, b, 0o600))
		},
		"a cut index":     func() { must(t, os.WriteFile(index, whole[:len(whole)-runSize], 0o600)) },
		"a cut data file": func() { must(t, os.Truncate(data, 3*pageSize)) },
		"a lost index":    func() { must(t, os.Remove(index)) },
	} {
		damage()
		if _, err := OpenSealed(s.Dir()); !errors.Is(err, ErrIndex) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, os.WriteFile(index, whole, 0o600))
		must(t, os.Truncate(data, 4*pageSize))
	}
	if _, err := OpenSealed(s.Dir()); err != nil {
		t.Fatal(err)
	}
}
