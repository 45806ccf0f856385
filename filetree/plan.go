package filetree

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"

	"golang.org/x/sys/unix"
)

// opKind is a step of a Sync.
type opKind uint8

const (
	// opSalvage moves a file that is to lose all its names and get others out of the way, to a name in the root.
	opSalvage opKind = iota
	// opRemove removes a name.
	opRemove
	// opDir makes a directory, or brings its metadata up to date.
	opDir
	// opPlace gives a file a name: moves it there, links it, or makes it.
	opPlace
	// opUpdate brings a file that keeps its name up to date.
	opUpdate
)

// op is one step. Its place is name in dir; for opDir the directory is obj.
type op struct {
	kind   opKind
	change bool // the object's change is part of this step
	create bool // with change: the destination has not the object yet
	obj    *object
	dir    *object
	name   string
}

func (o *op) at() location { return location{o.dir, o.name} }

// reads says that the step reads a file's content.
func (o *op) reads() bool { return o.change && o.obj.typ == unix.S_IFREG }

// plan is what a Sync does, in order.
type plan struct {
	ops    []op
	dirs   []*object // directories with something to do
	lost   []op      // names lost: obj, and dir and name as they were
	gained []*object // files that get a name
	temp   string    // prefix of the names of opSalvage
	temps  int
}

// plan decides from what the destination has and what the scan saw. It changes the model in one point: names that are going to be
// lost are no longer among their object's locations, so that nothing links to them.
func (r *syncRun) plan() *plan {
	p := &plan{}
	root := r.src.root
	if !root.seen.below.Load() {
		return p
	}
	p.compare(root)
	for i := range p.lost {
		if o := p.lost[i].obj; len(o.locs) == 0 && o.seen.gained > 0 {
			p.salvage(root, &p.lost[i])
		}
	}
	p.walk(root)
	return p
}

// compare collects the names that files lose and get.
func (p *plan) compare(d *object) {
	p.dirs = append(p.dirs, d)
	eachName(d.children, d.wanted(), func(name string, was, is *object) {
		if was != is {
			p.lose(d, name, was)
			p.gain(is)
		}
		if is != nil && is.isDir() && is.seen.below.Load() {
			p.compare(is)
		}
	})
}

// wanted is what the directory is to hold.
func (o *object) wanted() []child {
	if o.seen.listed {
		return o.seen.entries
	}
	return o.children
}

func (p *plan) lose(d *object, name string, o *object) {
	switch {
	case o == nil || o == whiteout:
	case o.isDir():
		for _, c := range o.children {
			p.lose(o, c.name, c.obj)
		}
	default:
		o.drop(location{d, name})
		p.lost = append(p.lost, op{obj: o, dir: d, name: name})
	}
}

func (p *plan) gain(o *object) {
	if o != nil && o != whiteout && !o.isDir() {
		o.seen.gained++
		p.gained = append(p.gained, o)
	}
}

func (p *plan) salvage(root *object, lost *op) {
	for p.temp == "" || lookup(root.wanted(), p.temp+strconv.Itoa(p.temps)) != nil {
		var random [6]byte
		_, _ = rand.Read(random[:]) // never fails
		p.temp = ".godwit-" + hex.EncodeToString(random[:]) + "-"
	}
	lost.kind = opSalvage
	p.ops = append(p.ops, *lost)
	lost.obj.seen.parked = true
	lost.obj.locs = append(lost.obj.locs, location{root, p.temp + strconv.Itoa(p.temps)})
	p.temps++
}

// walk lines up the steps of one directory and those below it: itself, what goes, what comes.
func (p *plan) walk(d *object) {
	if d.seen.changed != nil {
		p.ops = append(p.ops, op{kind: opDir, change: true, obj: d})
	}
	if d.seen.listed {
		eachName(d.children, d.seen.entries, func(name string, was, is *object) {
			if was != is && was != whiteout && is == nil || was != is && is == whiteout {
				p.ops = append(p.ops, op{kind: opRemove, dir: d, name: name})
			}
		})
	}
	eachName(d.children, d.wanted(), func(name string, was, is *object) {
		switch {
		case is == nil || is == whiteout:
		case is.isDir():
			if is.seen.below.Load() {
				p.walk(is)
			}
		case was != is:
			p.file(opPlace, d, name, is)
		case is.seen.changed != nil && !is.seen.queued:
			p.file(opUpdate, d, name, is)
		}
	})
}

func (p *plan) file(kind opKind, d *object, name string, o *object) {
	change := o.seen.changed != nil && !o.seen.queued
	o.seen.queued = o.seen.queued || change
	p.ops = append(p.ops, op{kind: kind, change: change, create: change && len(o.locs) == 0, obj: o, dir: d, name: name})
}

// commit makes the model what the destination has now, and forgets the scan.
func (r *syncRun) commit(p *plan) {
	for _, d := range p.dirs {
		if d.seen.listed {
			d.children = d.seen.entries[:0]
			for _, c := range d.seen.entries {
				if c.obj == whiteout || c.obj.made || c.obj.has(location{d, c.name}) {
					d.children = append(d.children, c)
				} else {
					d.relist = true // vanished before it was read; what is there now is for the next Sync
				}
			}
		}
		d.seen = sighting{}
	}
	for _, o := range r.changed {
		o.seen = sighting{}
	}
	for _, o := range p.gained {
		o.seen = sighting{}
	}
	for i := range p.lost {
		r.bury(p.lost[i].obj)
	}
	for _, o := range r.fresh {
		r.bury(o)
	}
}

func (o *object) has(at location) bool {
	for _, l := range o.locs {
		if l == at {
			return true
		}
	}
	return false
}

// bury forgets an object that the destination has not.
func (r *syncRun) bury(o *object) {
	if o.known() {
		return
	}
	o.content.forget(&r.src.hashes)
	if r.src.byID[o.id] == o {
		delete(r.src.byID, o.id)
	}
}
