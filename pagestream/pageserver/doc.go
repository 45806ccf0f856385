// Package pageserver is CRIU's page server (criu/page-xfer.c) at the source of
// a migration: criu, in a pre-dump or a dump, believes that it writes a
// container's memory into images on another machine, and the pages go into
// streams to the destination instead.
//
// It answers what CRIU asks of its images, whether a space has a parent and
// whether the pages left out are in it, from an Index of what the destination
// holds. It keeps the page map of each conversation, which is all that is known
// of which pages exist: CRIU writes no pagemap images then.
//
// CRIU may have frozen the container meanwhile, so what it sends is absorbed at
// the speed of memory into a bounded buffer, which the streams drain.
//
// Running CRIU, rounds and their errors belong to the callers; the client is a
// process of this machine, but nothing that it says is believed unchecked.
package pageserver

import (
	"errors"

	"godwit.dev/godwit/pagestream"
)

// Bounds that every conversation keeps, whatever the client claims.
const (
	// ChunkBytes is the most data of one call of Pages.Runs.
	ChunkBytes = 512 << 10
	// MaxRuns is the most runs of one call of Pages.Runs.
	MaxRuns = 1024
	// MaxSpaces is how many address spaces one conversation may open.
	MaxSpaces = 1 << 16
	// MaxEntries is how many entries the page maps of one conversation may
	// have in all, adjacent ones counted as one: 96 MiB of them, enough for
	// 32 GiB of which every other page is a run of its own.
	MaxEntries = 1 << 22
	// MaxPages is how many pages one conversation may name in all: 64 TiB.
	MaxPages = 64 << 40 / pagestream.PageSize
)

// What a caller of Serve tells apart.
var (
	// ErrProtocol is wrapped by errors about what the client said: it is no
	// CRIU that this package knows, or the socket is not its own.
	ErrProtocol = errors.New("CRIU's page-server protocol was violated")
	// ErrClientGone says that the client ended before it closed the
	// conversation, as a CRIU does that fails or is killed.
	ErrClientGone = errors.New("criu ended the page-server conversation before it was complete")
	// ErrSilent says that the client was silent for Config.Idle.
	ErrSilent = errors.New("criu is silent")
	// ErrHole says that CRIU left out pages that the destination lacks, and
	// nothing repaired that. The next round must be a full one.
	ErrHole = errors.New("pages left out of the dump are not at the destination")
	// ErrState says that an Index is not in the state for what was asked.
	ErrState = errors.New("index of pages: wrong state")
)
