package store

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"godwit.dev/godwit/pagestream"
)

func TestOneContainersSpacesAreOpened(t *testing.T) {
	s := newStore(t, 1<<20)
	for _, name := range []pagestream.Space{
		{Container: 1, Kind: pagestream.Process, ID: 1}, {Container: 1, Kind: pagestream.Shared, ID: 9},
		{Container: 11, Kind: pagestream.Process, ID: 1}, {Container: 2, Kind: pagestream.Process, ID: 1},
	} {
		if err := s.Pages(name, 0x1000, bytes.Repeat([]byte{byte(name.Container)}, pagestream.PageSize)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Seal(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenContainer(s.Dir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if len(r.spaces) != 2 {
		t.Errorf("%d spaces are open", len(r.spaces))
	}
	name := pagestream.Space{Container: 1, Kind: pagestream.Process, ID: 1}
	if page, ok := r.Lookup(name, 0x1000); !ok || page[0] != 1 {
		t.Errorf("its page: %v", ok)
	}
	// One of another container that is gone is still a store that is not whole.
	if err := os.Remove(indexPath(s.Dir(), pagestream.Space{Container: 2, Kind: pagestream.Process, ID: 1})); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenContainer(s.Dir(), 1); !errors.Is(err, ErrIndex) {
		t.Errorf("without an index: %v", err)
	}
}
