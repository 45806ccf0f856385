// Package demand carries pages that a pod needs where it runs already and that are still
// where it was frozen: the protocol between the fault server of a destination's container,
// which asks, and the shim of the source, which answers from the frozen processes. What a
// process waits for goes ahead of what is fetched in the background.
//
// The asking side decides everything: what it wants, in which order, and how much is under
// way. The answering side keeps no state but the requests that it has not answered yet, so
// that a connection which breaks costs only what was under way: the next one begins anew.
//
// Which connection this is, who may make one, and where pages go are left to others: package
// wire opens connections between nodes, package store keeps pages, package lazy fills
// them in.
//
// # A connection
//
// One for each container. The answering side opens it and sends a hello; the asking side
// answers with a welcome, or with the reason for which there is none. Then frames follow,
// each a header of 40 bytes and a body, little endian, under one CRC-32C:
//
//	0  kind    u8
//	1  flags   u8   1: a process waits for it
//	4  process u32  as its container has it
//	8  start   u64  address of the first page; of a status the pages that are missing
//	16 pages   u64  of a status the faults answered with pages from here
//	24 zero    u64  a bit for each page of zeros, which has no data in the body
//	32 body    u32
//	36 crc     u32  over body and header up to here
//
// The asking side says that it is there at least every Beat, and gets an answer to that; a side that
// hears nothing for Silence takes the connection for broken.
package demand

import "time"

// Bounds that both sides keep.
const (
	// MaxPages is the most pages of one request and its answer.
	MaxPages = 64
	// MaxQueue is the most requests that may be unanswered on a connection.
	MaxQueue = 16384
	// MaxText is the most bytes of a reason.
	MaxText = 1 << 10
	// MaxMigration is the most bytes of a migration's name.
	MaxMigration = 253
	// Version is that of this package's protocol.
	Version = 1
)

// Beat is how often the asking side says that it is there, Silence after how long without
// a word a connection counts as broken.
const (
	Beat    = time.Second
	Silence = 8 * time.Second
)
