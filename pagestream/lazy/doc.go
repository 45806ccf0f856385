// Package lazy is the fault server of a lazy restore: CRIU makes the processes
// without their memory (criu restore --lazy-pages), they run at once, and this
// package fills in their pages from a sealed store through the userfaultfd of
// each of them: what a process faults on first, its neighbourhood next, and all
// the rest in the background. It replaces criu lazy-pages and speaks its side of
// the socket (criu/uffd.c).
//
// Two parties share the work, so that neither's death harms the processes:
//
//   - The server (Serve) runs in a process of its own. One thread reads faults and
//     events and fills pages; nothing is handed over on the way from a fault to
//     its page.
//   - The Keeper runs in the process that outlives it, the shim. It takes CRIU's
//     connection, holds a duplicate of every userfaultfd, starts the server and
//     starts it anew when it dies.
//
// What it leaves to others: package store holds the pages, package criu runs CRIU,
// and the shim decides when a restore may begin and what to do if it fails.
//
// # What survives
//
// A userfaultfd tells what a process does to its memory (fork, mremap, madvise,
// munmap) exactly once, and lets it go on as soon as that has been read. A server
// that dies between reading and acting must not forget it: the next one would
// fill old content into memory that the process has given up. So events are read
// straight into a file mapped from a tmpfs, the journal, and the next server
// begins by replaying it.
//
// That leaves no gap for REMOVE, UNMAP and REMAP: read(2) wakes the process before
// it copies the event out (fs/userfaultfd.c: userfaultfd_ctx_read, then
// copy_to_iter in userfaultfd_read_iter), but it neither returns to user mode nor
// sleeps in between, and a SIGKILL acts only where one or the other happens. The
// journal is locked in memory, so that the copy takes no fault that a signal could
// break off. The keeper sees the death by the end of its connection, which comes
// when the last thread has left its last system call.
//
// For FORK it takes more. The child's userfaultfd is installed in the server by the
// same read(2), and closing it would end the child's faults: what was missing in it
// would read as zero. So the server shares its table of descriptors with a process
// that does nothing else, the holder, which lives on when the server is killed. The
// next server finds the fork in the journal, sees that the keeper has not heard of
// the child, and takes the descriptor out of the holder (pidfd_getfd(2), Linux 5.6).
// Where that fails, the child counts as Progress.Lost, and whoever started the keeper
// has to end the container.
//
// Faults that were read and not answered are not lost: the next server wakes all
// waiting threads, and they fault again. Which pages are filled in need not be
// known: filling a page that is there fails with EEXIST and changes nothing.
//
// Pages that the store has given back are the exception: a note beside the store says
// which they are, and the next server takes them as filled in (giveback.go).
//
// If keeper and server are both gone, so is every userfaultfd, and memory that was
// not yet filled in reads as zero, silently; nothing in the kernel prevents that.
// A server whose keeper has died goes on alone and finishes.
//
// # Pages at the source
//
// Pages that were left at the source (store.Leave) come over a connection that the source
// makes, see package demand: those that a process waits for first, with their neighbours; in
// the background what is near these, then the rest. They land in the store and are filled in from there, so that
// children, and a server that follows one which died, find them; what the store has of
// them from before is never used. A connection that ends is waited for until a deadline, while
// those who touch a missing page wait; then the memory is lost (ErrSourceLost).
//
// # Limits
//
// Pages that a parent and a child share are filled in for each of them by itself.
// A munmap in one thread and an mremap of other memory to the same address in
// another, at the same time, may be told in the wrong order by the kernel; the
// moved pages then read as zero.
package lazy

import "time"

// Progress counts what has been done, in pages of pagestream.PageSize. After a
// restart of the server it may step back: what was filled in before counts when it
// has been found to be there.
type Progress struct {
	Filled   uint64 // pages in place, or no longer wanted
	Total    uint64 // pages of all processes, those of forked ones included
	Faults   uint64 // faults answered
	Memories int    // processes with pages still to come
	// Lost counts children whose memory was lost in a crash of the server; their
	// container has to be ended.
	Lost int
	// Missing counts pages that are still at the source, Remote the faults that waited for
	// one of those.
	Missing, Remote uint64
	// Held counts pages that the store holds, once it gives them back (Keeper.Release); Peak is
	// the most that they and the pages put in place were together, as far as one server saw.
	Held, Peak uint64
	// Restarts counts how often the server has died and was started anew.
	Restarts int
	// Finished says that CRIU has restored all processes.
	Finished bool
	// Fill is how long it took from then until every page was in; 0 before that.
	Fill time.Duration
}
