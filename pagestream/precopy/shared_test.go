package precopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/delta"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagehash"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/test/criunode"
)

func newTestShared(t *testing.T) *Shared {
	t.Helper()
	s, err := NewShared(slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// sharedPod is a pod of two processes with shared memory, as a tracker that
// finds nothing else.
type sharedPod struct {
	*pod
	child  int
	ids    map[string]uint64 // "anon", "memfd", "sysv"
	starts map[string]uint64
}

func startSharedPod(t *testing.T, pages int) *sharedPod {
	p := &sharedPod{pod: startPod(t, "shared", pages), ids: map[string]uint64{}, starts: map[string]uint64{}}
	p.child = children(t, p.pid)[0]
	vmas, _, err := pagemap.ReadMaps(p.pid, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range vmas {
		name := map[string]string{"/dev/zero (deleted)": "anon", "/memfd:pod (deleted)": "memfd", "/SYSV00000000 (deleted)": "sysv"}[v.Path]
		if name != "" {
			p.ids[name], p.starts[name] = v.Inode, v.Start
		}
	}
	if len(p.ids) != 3 {
		t.Fatalf("found %v in %+v", p.ids, vmas)
	}
	return p
}

// Collect names the processes and none of their pages.
func (p *sharedPod) Collect(context.Context) (track.Round, error) {
	child := pagestream.Space{Kind: pagestream.Process, ID: uint64(p.child)}
	return roundOf(Memory{PID: p.pid, Space: p.pod.space}, Memory{PID: p.child, Space: child}), nil
}

func (p *sharedPod) CollectFrozen(ctx context.Context) (track.Round, error) { return p.Collect(ctx) }

func (p *sharedPod) spaceOf(name string) pagestream.Space {
	return pagestream.Space{Kind: pagestream.Shared, ID: p.ids[name]}
}

// content is a segment as the frozen pod has it.
func (p *sharedPod) content(t *testing.T, name string) []byte {
	return memoryOf(t, p.pid, pagestream.Range{Start: p.starts[name], Pages: uint64(p.pages)})
}

// dump writes the images that CRIU makes of shared memory: every page that is
// not a hole, in as many entries as parts says.
func (p *sharedPod) dump(t *testing.T, dir string, id images.PagesID, name string, pages, parts int) {
	t.Helper()
	content := p.content(t, name)[:pages*pagestream.PageSize]
	var entries []images.Entry
	for i := range parts {
		from, to := pages*i/parts, pages*(i+1)/parts
		entries = append(entries, images.Entry{Vaddr: uint64(from) * pagestream.PageSize, Pages: uint64(to - from), Flags: images.Present})
	}
	var b bytes.Buffer
	if err := images.WritePagemap(&b, id, entries); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{
		images.SharedPagemapPath(dir, p.ids[name]): b.Bytes(),
		images.PagesPath(dir, id):                  content,
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *sharedPod) freeze(t *testing.T) { freeze(t, p.pid, p.child) }

func TestSharedMemoryThatDidNotChangeIsSentOnce(t *testing.T) {
	t.Run("by a tracker", func(t *testing.T) {
		sharedIsSentOnce(t, func(*sharedPod) Carrier { return nil })
	})
	t.Run("beside a carrier", func(t *testing.T) {
		sharedIsSentOnce(t, func(p *sharedPod) Carrier { return nothingPrivate{p} })
	})
}

func sharedIsSentOnce(t *testing.T, carrier func(*sharedPod) Carrier) {
	const pages = 4096
	p := startSharedPod(t, pages)
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: p, Carrier: carrier(p), Session: s, Shared: newTestShared(t)})
	res, err := r.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := res.Rounds[0].SharedCopied
	if want := uint64(pages + pages/2 + pages); first.Sent != want {
		t.Errorf("copied %+v ahead, want %d pages: each segment once, no holes", first, want)
	}
	if got := res.Rounds[1].SharedCopied; got.Unchanged < pages/2 {
		t.Errorf("second look: %+v, though half did not change", got)
	}
	p.freeze(t)
	dir := t.TempDir()
	p.dump(t, dir, 3, "anon", pages, 7)
	p.dump(t, dir, 5, "memfd", pages/2, 1)
	p.dump(t, dir, 6, "sysv", pages, pages)
	if err := os.WriteFile(filepath.Join(dir, "pages-1.img"), []byte("of a process"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := s.sent
	last := make(chan error)
	go func() { _, err := r.Final(t.Context()); last <- err }()
	names, stat, err := r.FinishShared(t.Context(), 0, dir)
	if err := errors.Join(err, <-last); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	if want := []string{"pages-3.img", "pages-5.img", "pages-6.img"}; !slices.Equal(names, want) {
		t.Errorf("pages files %v, want %v", names, want)
	}
	sent := s.sent - before
	// Nobody writes to a half of the first and to the second; a pod that has run for long enough has written to all the rest.
	const written = pages/2 + pages
	if sent == 0 || sent != stat.Copied.Sent || sent > written || stat.Pages != pages+pages/2+pages || stat.Segments != 3 {
		t.Errorf("%d pages arrived at the end, %+v", sent, stat)
	}
	for _, name := range []string{"anon", "memfd", "sysv"} {
		if bad := s.differing(p.spaceOf(name), 0, p.content(t, name)); len(bad) > 0 {
			t.Errorf("%s: %d pages differ, first %#x", name, len(bad), bad[0])
		}
	}
	s.check(t)
}

// segment opens the pod's memory of a name for writing.
func (p *sharedPod) segment(t *testing.T, name string) *os.File {
	t.Helper()
	end := p.starts[name] + uint64(p.pages)*pagestream.PageSize
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/map_files/%x-%x", p.pid, p.starts[name], end), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSharedPagesThatAreSentAThirdTimeGoAsWhatChangedInThem(t *testing.T) {
	const pages, touched = 512, 100
	p := startSharedPod(t, pages)
	p.freeze(t) // so that nobody else writes
	segment := p.segment(t, "anon")
	touch := func(from, count int, what string) {
		t.Helper()
		for page := from; page < from+count; page++ {
			if _, err := segment.WriteAt([]byte(what), int64(page)*pagestream.PageSize+40); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := &changing{sink: newSink(2), limit: delta.MaxRecord}
	r := newTestRounds(t, Config{Tracker: p, Session: s, Shared: newTestShared(t)})
	for number, want := range []uint64{pages + pages/2 + pages, touched} {
		stat, err := r.round(t.Context(), number)
		if err != nil || stat.SharedCopied.Sent != want || stat.SharedCopied.Deltas != 0 {
			t.Fatalf("round %d: %+v, %v; want %d pages, none as a delta", number, stat.SharedCopied, err, want)
		}
		touch(0, touched, "before the second round")
	}
	touch(0, touched+10, "before the freeze")
	r.state = Converged
	dir := t.TempDir()
	p.dump(t, dir, 3, "anon", pages, 2)
	_, stat, err := r.FinishShared(t.Context(), 0, dir)
	if err != nil || stat.Copied.Sent != touched+10 || stat.Copied.Deltas != touched {
		t.Errorf("the last copy: %+v, %v; want %d pages, %d of them as deltas", stat.Copied, err, touched+10, touched)
	}
	if bad := s.differing(p.spaceOf("anon"), 0, p.content(t, "anon")); len(bad) > 0 {
		t.Errorf("%d pages differ, first %#x", len(bad), bad[0])
	}
	s.check(t)
}

// CRIU names images, and says which pages there are, as Shared expects.
func TestSharedMemoryThatCRIUDumpsIsFinished(t *testing.T) {
	criu, err := criunode.Program()
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	const pages = 2048
	p := startSharedPod(t, pages)
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: p, Session: s, Shared: newTestShared(t)})
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, err := exec.Command(criu[0], append(criu[1:], "dump", "--tree", strconv.Itoa(p.pid), "--images-dir", dir,
		"--shell-job", "--leave-stopped", "--log-file", "dump.log", "-v4")...).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "dump.log"))
		t.Fatalf("criu dump: %v: %s\n%s", err, out, log[max(len(log)-3000, 0):])
	}
	names, stat, err := r.FinishShared(t.Context(), 0, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 3 || stat.Pages != pages+pages/2+pages || stat.Copied.Unchanged < pages/2 {
		t.Errorf("%v, %+v", names, stat)
	}
	for _, name := range []string{"anon", "memfd", "sysv"} {
		if bad := s.differing(p.spaceOf(name), 0, p.content(t, name)); len(bad) > 0 {
			t.Errorf("%s: %d pages differ, first %#x", name, len(bad), bad[0])
		}
	}
}

func TestSharedMemoryNotCopiedAheadIsSentWhole(t *testing.T) {
	const pages = 512
	p := startSharedPod(t, pages)
	p.freeze(t)
	dir := t.TempDir()
	p.dump(t, dir, 2, "anon", pages, 3)
	for _, shared := range []*Shared{nil, newTestShared(t)} {
		s := newSink(2)
		r := newTestRounds(t, Config{Tracker: p, Session: s, Shared: shared})
		names, stat, err := r.FinishShared(t.Context(), 4, dir)
		if err != nil || len(names) != 1 || stat.Copied.Sent != pages {
			t.Fatalf("%v, %+v, %v", names, stat, err)
		}
		space := p.spaceOf("anon")
		space.Container = 4
		if bad := s.differing(space, 0, p.content(t, "anon")); len(bad) > 0 {
			t.Errorf("%d pages differ", len(bad))
		}
	}
}

func TestImagesThatDoNotFitTogetherAreAnError(t *testing.T) {
	const pages = 16
	p := startSharedPod(t, pages)
	p.freeze(t)
	for name, spoil := range map[string]func(dir string) error{
		"pages cut short": func(dir string) error { return os.Truncate(images.PagesPath(dir, 2), 100) },
		"pages too long":  func(dir string) error { return os.Truncate(images.PagesPath(dir, 2), 1<<20) },
		"no pages":        func(dir string) error { return os.Remove(images.PagesPath(dir, 2)) },
		"no pagemap": func(dir string) error {
			return os.WriteFile(images.SharedPagemapPath(dir, p.ids["anon"]), []byte("x"), 0o600)
		},
		"pages in a parent": func(dir string) error {
			var b bytes.Buffer
			err := images.WritePagemap(&b, 2, []images.Entry{{Vaddr: 0, Pages: pages, Flags: images.Parent}})
			if err != nil {
				return err
			}
			return os.WriteFile(images.SharedPagemapPath(dir, p.ids["anon"]), b.Bytes(), 0o600)
		},
	} {
		dir := t.TempDir()
		p.dump(t, dir, 2, "anon", pages, 1)
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		r := newTestRounds(t, Config{Tracker: p, Session: newSink(1)})
		if names, _, err := r.FinishShared(t.Context(), 0, dir); err == nil || names != nil {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}

// inPlace reads frozen shared memory through a process that maps it.
type inPlace struct {
	t *testing.T
	p *sharedPod
}

func (f inPlace) Segments() map[pagestream.Space][]pagestream.Range {
	return map[pagestream.Space][]pagestream.Range{f.p.spaceOf("anon"): {{Start: 0, Pages: uint64(f.p.pages)}}}
}

func (f inPlace) Read(_ pagestream.Space, runs []pagestream.Range, buf []byte) error {
	for _, r := range runs {
		start := f.p.starts["anon"] + r.Start
		missing, err := pagemap.ReadMemory(f.p.pid, []pagestream.Range{{Start: start, Pages: r.Pages}}, buf[:r.Bytes()])
		if err != nil || len(missing) > 0 {
			return fmt.Errorf("%v, missing %v", err, missing)
		}
		buf = buf[r.Bytes():]
	}
	return nil
}

func TestFrozenSharedMemoryMayBeReadInPlace(t *testing.T) {
	const pages = 2048
	p := startSharedPod(t, pages)
	s := newSink(2)
	r := newTestRounds(t, Config{Tracker: p, Session: s, Shared: newTestShared(t)})
	if _, err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.freeze(t)
	stat, err := r.FinishSharedFrozen(t.Context(), inPlace{t, p})
	if err != nil || stat.Copied.Unchanged < pages/2 {
		t.Fatalf("%+v, %v", stat, err)
	}
	if bad := s.differing(p.spaceOf("anon"), 0, p.content(t, "anon")); len(bad) > 0 {
		t.Errorf("%d pages differ", len(bad))
	}
}

func BenchmarkUnchangedSharedPages(b *testing.B) {
	h := pagehash.New(1)
	defer h.Release()
	data := make([]byte, chunkBytes)
	fill(data, 1)
	runs := []pagestream.Range{{Start: 0, Pages: chunkPages}}
	h.Ahead(runs, data, nil)
	b.SetBytes(chunkBytes)
	for b.Loop() {
		if got, _ := h.Ahead(runs, data, nil); len(got) > 0 {
			b.Fatal("changed")
		}
	}
}
