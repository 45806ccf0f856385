package filetree

import (
	"sort"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// object is one inode of the destination as the Source knows it, and the source's inode that it is a copy of. The tree of
// objects is the Source's model of the destination: it changes with what was emitted, not with what was seen.
type object struct {
	typ    uint32 // S_IFMT bits; 0 is a whiteout
	id     FileID // of the source's inode
	sent   stat   // the source's inode when what the destination has was read
	racy   bool   // it may have been written to since without its times showing that
	meta   Meta   // what the destination has
	target string // symbolic link

	// Names that the destination has of it now; none of one that was not sent yet. Not for directories.
	locs    []location
	content blockHashes // regular file: of the destination's content

	// Directories. They are the same object as long as the name holds a directory that need not be emptied.
	parent   *object
	name     string
	made     bool // the destination has it
	opaque   bool
	children []child // what the destination has in it, by name
	relist   bool    // children may lack names that the source has, whatever the directory's times say

	seen sighting // of the running Sync
}

// sighting is what the scan of the running Sync found out about an object.
type sighting struct {
	changed *change     // nil: as sent
	entries []child     // directory: what it is to hold, if that is not children
	listed  bool        // entries is set
	below   atomic.Bool // directory: something in it or below it changed, or itself
	gained  int         // names that it gets
	parked  bool        // an opSalvage has moved it, its only location is that
	queued  bool        // its change is part of an operation already
}

// change is the state of a source's inode that the destination has not.
type change struct {
	st     stat
	meta   Meta
	racy   bool
	opaque bool
}

// child is a name in a directory.
type child struct {
	name string
	obj  *object
}

// location is a name of a file: a directory and the name in it.
type location struct {
	dir  *object
	name string
}

// whiteout is the object of every name that the destination must not have though a lower layer has it.
var whiteout = new(object)

func (o *object) isDir() bool { return o.typ == unix.S_IFDIR }

// known says that the destination has the object.
func (o *object) known() bool { return o.made || len(o.locs) > 0 }

// path of a directory.
func (o *object) path() string {
	if o.parent == nil {
		return rootPath
	}
	return join(o.parent.path(), o.name)
}

func (l location) path() string { return join(l.dir.path(), l.name) }

// mark notes that there is something to do in the directory, for the directories above to lead there.
func (o *object) mark() {
	for d := o; d != nil && !d.seen.below.Swap(true); d = d.parent {
	}
}

// drop forgets one name.
func (o *object) drop(at location) {
	for i, l := range o.locs {
		if l == at {
			o.locs = append(o.locs[:i], o.locs[i+1:]...)
			return
		}
	}
}

// lookup finds a name in children, which are sorted.
func lookup(children []child, name string) *object {
	i := sort.Search(len(children), func(i int) bool { return children[i].name >= name })
	if i < len(children) && children[i].name == name {
		return children[i].obj
	}
	return nil
}

// eachName calls f for every name in old or new, which are sorted, with what it holds in each, or nil.
func eachName(old, new []child, f func(name string, was, is *object)) {
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].name < new[0].name:
			f(old[0].name, old[0].obj, nil)
			old = old[1:]
		case len(old) == 0 || new[0].name < old[0].name:
			f(new[0].name, nil, new[0].obj)
			new = new[1:]
		default:
			f(new[0].name, old[0].obj, new[0].obj)
			old, new = old[1:], new[1:]
		}
	}
}
