// Package filetree carries a tree of files from one node to another while it is being written to: nearly all of it
// before its writers are frozen, the difference after, so that the copy equals the original.
//
// A [Source] reads one tree, the upper directory of an overlay mount or a plain directory, and turns it into a stream of
// self-describing [Record]s. [Source.Sync] may run any number of times while the tree changes: the first sends all of
// it, each further one what changed since. [Source.SyncFrozen] runs once nobody writes any more and leaves the copy exact.
// An [Applier] takes the records in order and brings the destination's tree to that state; it trusts none of them.
//
// One record stream belongs to one pair of Source and Applier, and a Source keeps in memory what its Applier has: records
// that were emitted but not applied in order make the pair useless, and both must be started again.
//
// The package knows nothing of containers, of processes or of a network. Whoever calls it finds the trees, freezes the
// writers, says which files they have mapped, and carries the records (see [AppendRecord] and [DecodeRecord]).
//
// Not carried: access times, inode flags (chattr), extended attributes outside user., trusted., security. and the POSIX
// access control lists, the private attributes of overlayfs, files that have no name any more, and mounts below the tree.
package filetree
