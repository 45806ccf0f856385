package store

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

var contentSpace = pagestream.Space{Kind: pagestream.Content}

// pagesOf puts together what the pages with these numbers have.
func pagesOf(all []byte, numbers []uint32) (b []byte) {
	for _, n := range numbers {
		b = append(b, all[int(n)*pageSize:int(n+1)*pageSize]...)
	}
	return b
}

func writeContents(t *testing.T, dir string, id images.PagesID, pages []byte, numbers []uint32) {
	t.Helper()
	c := images.Contents{Sum: images.ContentsSum(0, pages), Numbers: numbers}
	must(t, os.WriteFile(images.ContentsPath(dir, id), c.Encode(), 0o600))
}

func TestPagesFilesAreMadeOfTheirContents(t *testing.T) {
	s := newStore(t, 64<<20)
	dir := s.ImagesDir(0)
	all := content(1, 3000)
	clear(all[7*pageSize : 9*pageSize])
	must(t, s.Pages(contentSpace, 1000*pageSize, all[1000*pageSize:]))
	must(t, s.Pages(contentSpace, 0, all[:1000*pageSize]))
	must(t, s.Zero(contentSpace, 7*pageSize, 2))
	var every []uint32
	for n := range uint32(3000) {
		every = append(every, (n*7)%3000)
	}
	files := map[images.PagesID][]uint32{2: {0}, 3: {5, 5, 7, 2999, 8, 0}, 11: every, 12: nil}
	for id, numbers := range files {
		writeContents(t, dir, id, pagesOf(all, numbers), numbers)
	}
	must(t, s.AssembleContents(0))
	for id, numbers := range files {
		got, err := os.ReadFile(images.PagesPath(dir, id))
		must(t, err)
		if !bytes.Equal(got, pagesOf(all, numbers)) {
			t.Errorf("pages file %d differs", id)
		}
	}
	left, err := images.ListContents(dir)
	st, err2 := s.Stats()
	if len(left) > 0 || st.Spaces != 0 || st.Used != 0 || err != nil || err2 != nil {
		t.Errorf("left are %v, and %d bytes in %d spaces (%v, %v)", left, st.Used, st.Spaces, err, err2)
	}
	must(t, s.AssembleContents(0)) // nothing is to be done
	must(t, s.Seal())
}

func TestPagesFilesThatCannotBeMadeAreNotThere(t *testing.T) {
	all := content(1, 4)
	for name, c := range map[string]struct {
		sent    bool // any content
		numbers []uint32
		pages   []byte
		before  []byte
		want    error
	}{
		"nothing came":       {false, []uint32{0}, all[:pageSize], nil, ErrMissing},
		"one did not come":   {true, []uint32{0, 4}, all[:pageSize], nil, ErrMissing},
		"a number far away":  {true, []uint32{1 << 31}, all[:pageSize], nil, ErrMissing},
		"other content came": {true, []uint32{1}, all[:pageSize], nil, images.ErrFormat},
		"the file came, too": {true, []uint32{1}, all[pageSize : 2*pageSize], all, images.ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, 16<<20)
			dir := s.ImagesDir(0)
			if c.sent {
				must(t, s.Pages(contentSpace, 0, all))
			}
			if c.before != nil {
				must(t, os.WriteFile(images.PagesPath(dir, 5), c.before, 0o600))
			}
			writeContents(t, dir, 5, c.pages, c.numbers)
			if err := s.AssembleContents(0); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if _, err := os.Stat(images.PagesPath(dir, 5)); c.before == nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the pages file is there: %v", err)
			}
		})
	}
	s := newStore(t, 16<<20)
	must(t, os.WriteFile(images.ContentsPath(s.ImagesDir(0), 5), []byte("nonsense"), 0o600))
	must(t, s.Pages(contentSpace, 0, all))
	if err := s.AssembleContents(0); !errors.Is(err, images.ErrFormat) {
		t.Errorf("what is no list of contents: %v", err)
	}
}
