// Package wire carries pages and blobs from a source node to a destination
// node: one TCP port for each node, mutual TLS 1.3 on every connection, several
// parallel streams for each session. It knows nothing of containers, of what
// a blob means, or of when a page must be sent again; tracking, rounds and
// the store are the subjects of its neighbours, and the messages of a control
// connection are those of whoever serves it.
//
// # Connections
//
// The protocol of a connection is chosen by ALPN: ALPNControl is handed out
// by Listener.Control, ALPNDemand by Listener.Demand, ALPNPages is a stream of pages. Both sides show a
// certificate of the cluster's authority; a node's name is its certificate's
// common name, which must be among its DNS names too. crypto/tls shakes hands on
// all of them and carries a control connection; the records of a stream, the
// same TLS 1.3, are written and read here, see records.go.
//
// # A stream
//
// The dialing side sends a Hello, the listening side a welcome, or a refusal
// in clear text. Then frames follow, each a header of fixed size, a table of
// page runs and a body, under one xxh3 checksum. The receiver answers with
// acknowledgements of what it has stored; the sender keeps at most a window
// unacknowledged. Pages of zeros travel as entries of the run table only, and pages of which
// little changed since they were stored as what did (package delta), if both sides know
// how.
//
// Frames of one stream are stored in order. Between streams there is no order
// but that of Session.Flush, which returns when everything before it is
// stored.
//
// # Memory
//
// Each stream of the sender holds at most 2 MaxData + 512 KiB and what its
// compressors need (none before data compresses: lz4 16 KiB, zstd about
// 2 MiB, and 3 MiB more for its higher level over a slow link), each stream of the receiver 2 MaxData + 512 KiB, whatever the peer does.
// The window lies in the kernels' socket buffers, under the kernels' limits.
//
// # Compression
//
// What a frame is compressed with is chosen by the stream that sends it (choose.go), from what it measures of itself and the kernel
// says of its connection (epoch.go, bottleneck.go); a change that does not pay is taken back (proof.go). The
// receiver decodes what a frame's header says: it knows of codecs, not of levels.
//
// # Limits
//
// One AES-GCM key should not encrypt more than 2^24.5 records (RFC 8446, 5.5).
// The sender of a stream goes on with the next key after 2^23 of them, 128 GiB,
// and says so by a key update. It gives none when it is asked for one, which no
// peer of ours does: that ends the session.
package wire

import "godwit.dev/godwit/pagestream"

// The protocols of a connection, chosen by ALPN in the TLS handshake.
const (
	ALPNControl = "godwit-control/1"
	ALPNPages   = "godwit-pages/1"
	// ALPNDemand is for pages that are asked for one by one, see package demand.
	ALPNDemand = "godwit-demand/1"
)

// Bounds that both sides keep.
const (
	// MaxData is the most bytes of pages that one call and one frame carry.
	MaxData = 512 << 10
	// MaxBlob is the most bytes of one blob.
	MaxBlob = MaxData + 64<<10
	// MaxStreams is the most streams that one session has.
	MaxStreams = 16
	// MaxText is the most bytes of an error's text that cross the wire.
	MaxText = 1 << 10
	// MaxMigration is the most bytes of a migration's name.
	MaxMigration = 253
)

// Receiver stores what arrives. Its methods are called from several streams
// at once, in order within each; data and payload are valid only during the
// call. Every argument has been checked: checksum, space.Valid, Range.Valid,
// lengths. An error ends the session and comes to the sender as a
// *RemoteError with its text.
type Receiver interface {
	// Pages stores whole pages; data is 1 to MaxData bytes long.
	Pages(space pagestream.Space, vaddr uint64, data []byte) error
	// Zero makes pages zero. pages is bounded by the address space only, so
	// its cost must not grow with it.
	Zero(space pagestream.Space, vaddr, pages uint64) error
	// Stored reads pages that were stored, 1 to MaxData bytes, for a delta to change. One
	// that never came is an error.
	Stored(space pagestream.Space, vaddr uint64, data []byte) error
	// Blob takes up to MaxBlob bytes, possibly none.
	Blob(channel uint32, payload []byte) error
	// Closed is called once, after every other call has returned: nil after
	// a clean end, else why the session ended.
	Closed(err error)
}
