package pageserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// What was said between criu and criu's own page server is said to ours: its
// answers must be the same, and so must be what it takes the pages to be.
func TestRecordedConversationsEndAsWithCRIUsOwnServer(t *testing.T) {
	recordings, err := filepath.Glob("testdata/*.json")
	must(t, err)
	if len(recordings) < 6 {
		t.Fatalf("only %d recordings", len(recordings))
	}
	for _, path := range recordings {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			must(t, err)
			var all recording
			must(t, json.Unmarshal(b, &all))
			layout := Layout32
			if strings.HasPrefix(all.CRIU, "4.1") {
				layout = Layout24
			}
			x := newIndex(t)
			for _, want := range all.Rounds {
				s := newSink()
				r := replay(t, want.File, Config{Out: s.streams(2), Index: x})
				if r.Layout != layout {
					t.Errorf("%s: layout %s of criu %s", want.File, r.Layout, all.CRIU)
				}
				compare(t, want, r, s)
				_, err := x.Commit(r)
				must(t, err)
			}
		})
	}
}

// replay says what a client said and expects what it was answered.
func replay(t *testing.T, file string, c Config) *Round {
	t.Helper()
	v := serve(t, LayoutUnknown, c)
	for i, l := range readTape(t, filepath.Join("testdata", file)) {
		if l.fromClient {
			_, err := v.Write(l.data)
			must(t, err)
			continue
		}
		got := make([]byte, len(l.data))
		_, err := io.ReadFull(v, got)
		must(t, err)
		if !bytes.Equal(got, l.data) {
			t.Errorf("%s, line %d: answered %x, criu's server %x", file, i, got, l.data)
		}
	}
	r, err := v.end()
	must(t, err)
	return r
}

// compare compares a round with what criu's server wrote. Shared memory that did
// not change since is not with the sink, and not compared.
func compare(t *testing.T, want recordedRound, r *Round, s *sink) {
	t.Helper()
	got := make(map[string][]images.Entry)
	for space, entries := range r.Map {
		got[space.String()] = entries
		sum := sha256.New()
		for _, p := range chosen(entries, images.Entry.Present) {
			sum.Write(s.content(space, p))
		}
		if hash := hex.EncodeToString(sum.Sum(nil)); hash != want.Spaces[space.String()].SHA256 &&
			(space.Kind == pagestream.Process || r.Unchanged == 0) {
			t.Errorf("%s, space %s: content differs", want.File, space)
		}
	}
	if len(got) != len(want.Spaces) {
		t.Errorf("%s: %d spaces, criu's server has %d", want.File, len(got), len(want.Spaces))
	}
	for space, recorded := range want.Spaces {
		if w := written(got[space]); w != recorded.Entries {
			t.Errorf("%s, space %s: page map\n%s, criu's server\n%s", want.File, space, w, recorded.Entries)
		}
	}
}

// The last rounds leave out what the index has; to an index that was told that a
// round failed they are a dump with holes.
func TestARecordedRoundWithoutItsParentFails(t *testing.T) {
	for _, file := range []string{"criu-4.1-soft-dirty-splice-2.gz", "criu-4.2-soft-dirty-splice-2.gz"} {
		x := newIndex(t)
		v := serve(t, LayoutUnknown, Config{Out: newSink().streams(1), Index: x})
		lines := readTape(t, filepath.Join("testdata", file))
		for _, l := range lines {
			if l.fromClient {
				_, err := v.Write(l.data)
				must(t, err)
			} else {
				_, err := io.ReadFull(v, make([]byte, len(l.data)))
				must(t, err)
			}
		}
		if _, err := v.end(); err == nil || !strings.Contains(err.Error(), ErrHole.Error()) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestARecordedVanishedQuarterIsGone(t *testing.T) {
	x := newIndex(t)
	var gone uint64
	for _, file := range []string{"criu-4.2-soft-dirty-read-1.gz", "criu-4.2-soft-dirty-read-2.gz", "criu-4.2-soft-dirty-read-3.gz"} {
		r := replay(t, file, Config{Out: newSink().streams(1), Index: x})
		g, err := x.Commit(r)
		must(t, err)
		for _, ranges := range g {
			gone += pagesOf(ranges)
		}
	}
	if gone != 64 { // of 1 MiB
		t.Errorf("%d pages are gone", gone)
	}
}
