// Package witness says whether a destination is about to restore the memory that a frozen
// container has, by somebody else's word: CRIU's own, plain dump, which knows nothing of
// trackers, rounds, views and stores. A Recorder takes in what such a dump sends to a page
// server, which becomes a Dump: which pages there are, and a hash of each. It goes to the
// destination as one of the container's images, and Compare holds it against what the images
// and the store there have. One page of difference is an error that names it.
//
// It costs what live migration is to avoid: a walk over all memory while the pod stands
// still. So it is for who looks for a fault, and for tests.
//
// Having CRIU dump is the shim's; what to do about a difference is the callers'.
package witness

import (
	"errors"

	"github.com/zeebo/xxh3"

	"godwit.dev/godwit/pagestream"
)

// FileName is that of a container's Dump among its images.
const FileName = "witness.godwit"

// What a caller tells apart.
var (
	// ErrDiffers is wrapped by the error for memory that is not what CRIU has dumped.
	ErrDiffers = errors.New("memory differs from CRIU's own dump")
	// ErrFormat is wrapped by every error about the bytes of a Dump's file.
	ErrFormat = errors.New("bad list of what CRIU has dumped")
)

// Name is that of an address space in its container.
type Name struct {
	Kind pagestream.SpaceKind
	ID   uint64
}

// of is the space in a container.
func (n Name) of(container uint16) pagestream.Space {
	return pagestream.Space{Container: container, Kind: n.Kind, ID: n.ID}
}

// hashSize is how many bytes a page's hash takes in a file. Of 128 bits, as an equal hash counts as an equal page.
const hashSize = 16

type hash = xxh3.Uint128

var zeroHash = xxh3.Hash128(make([]byte, pagestream.PageSize))
