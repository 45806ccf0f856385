package pageserver

import (
	"fmt"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// conversation is what the messages so far have said, and decides what each
// means. It does no input or output.
type conversation struct {
	container uint16
	parent    func(pagestream.Space) ([]pagestream.Range, bool)

	state   conversationState
	space   pagestream.Space // the open one
	entries []images.Entry   // of the open space, not in round.Map yet
	have    cursor           // over what the last round left of it
	total   int              // entries of all spaces

	round   *Round
	missing []hole // pages left out that the destination lacks
}

// conversationState says what may come next.
type conversationState uint8

const (
	// outside: no space is open. An entry opens its own.
	outside conversationState = iota
	// within: a space is open, entries are of it until the next is opened.
	within
	// closed: the end has come, and nothing may.
	closed
)

// hole is pages of one space.
type hole struct {
	space  pagestream.Space
	ranges []pagestream.Range
}

// step is what a message asks of the server.
type step struct {
	kind  stepKind
	space pagestream.Space
	pages pagestream.Range // take, get
	has   bool             // answerByte, answerInt: there is a parent
}

type stepKind uint8

const (
	nothing    stepKind = iota
	answerByte          // reply with one byte
	answerInt           // reply with an int
	take                // the content of pages follows
	get                 // reply with the content of pages
	finish              // the client is done
)

func newConversation(container uint16, index *Index) *conversation {
	return &conversation{
		container: container,
		parent:    index.parent,
		round:     &Round{Map: make(map[pagestream.Space][]images.Entry)},
	}
}

// accept takes the next message. Its errors wrap ErrProtocol.
func (c *conversation) accept(m message) (step, error) {
	c.round.Messages++
	if c.state == closed {
		return step{}, bad(m, "after the end")
	}
	if m.flags != 0 && m.cmd != cmdAddFlags {
		return step{}, bad(m, "flags on a command that has none")
	}
	switch m.cmd {
	case cmdOpen, cmdOpen2, cmdParent:
		return c.begin(m)
	case cmdAdd:
		return c.add(m, images.Present)
	case cmdHole:
		return c.add(m, images.Parent)
	case cmdAddFlags:
		return c.add(m, m.flags)
	case cmdGet:
		return c.get(m)
	case cmdClose, cmdForceClose:
		c.close()
		c.state = closed
		return step{kind: finish}, nil
	}
	return step{}, bad(m, "unknown command")
}

func bad(m message, why string) error {
	return fmt.Errorf("message %s: %s: %w", m, why, ErrProtocol)
}

// begin takes what asks about a parent and opens a space.
func (c *conversation) begin(m message) (step, error) {
	if m.pages != 0 || m.vaddr != 0 {
		return step{}, bad(m, "pages where there are none")
	}
	space, err := spaceOf(c.container, m.dst)
	if err != nil {
		return step{}, err
	}
	held, has := c.parent(space)
	if m.cmd == cmdParent {
		return step{kind: answerInt, has: has}, nil
	}
	if err := c.open(m, space, held); err != nil {
		return step{}, err
	}
	if m.cmd == cmdOpen {
		return step{}, nil
	}
	return step{kind: answerByte, has: has}, nil
}

// open ends the open space and begins another.
func (c *conversation) open(m message, space pagestream.Space, held []pagestream.Range) error {
	c.close()
	if _, seen := c.round.Map[space]; seen {
		return bad(m, "opens a space again")
	}
	if len(c.round.Map) == MaxSpaces {
		return bad(m, fmt.Sprintf("more than %d spaces", MaxSpaces))
	}
	c.round.Map[space] = nil
	c.state, c.space = within, space
	c.have = cursor{ranges: held}
	return nil
}

// close puts the entries of the open space where callers find them.
func (c *conversation) close() {
	if c.state == within {
		c.round.Map[c.space] = c.entries
	}
	c.entries, c.state = nil, outside
}

// add takes an entry. CRIU before 3.0 opened no spaces: an entry of another
// one than is open opens that, as in CRIU's own server (prep_loc_xfer).
func (c *conversation) add(m message, flags images.Flags) (step, error) {
	space, err := spaceOf(c.container, m.dst)
	if err != nil {
		return step{}, err
	}
	if c.state != within || space != c.space {
		held, _ := c.parent(space)
		if err := c.open(m, space, held); err != nil {
			return step{}, err
		}
	}
	if err := c.checkEntry(m); err != nil {
		return step{}, err
	}
	e := images.Entry{Vaddr: m.vaddr, Pages: m.pages, Flags: flags}
	switch flags {
	case images.Present, images.Present | images.Lazy:
		c.round.Present += m.pages
		c.round.Bytes += e.Range().Bytes()
		c.note(e)
		return step{kind: take, space: space, pages: e.Range()}, nil
	case images.Lazy:
		c.round.Lazy += m.pages
		c.note(e)
		return step{}, nil
	case images.Parent:
		c.round.Parent += m.pages
		c.checkHole(e.Range())
		c.note(e)
		return step{}, nil
	}
	return step{}, bad(m, "flags that no CRIU sets")
}

// checkEntry bounds an entry: CRIU's ascend within a space.
func (c *conversation) checkEntry(m message) error {
	if err := m.span().Valid(); err != nil {
		return fmt.Errorf("message %s: %w: %w", m, err, ErrProtocol)
	}
	if n := len(c.entries); n > 0 && m.vaddr < c.entries[n-1].End() {
		return bad(m, fmt.Sprintf("begins before the end %#x of the pages before", c.entries[n-1].End()))
	}
	if c.total == MaxEntries {
		return bad(m, fmt.Sprintf("more than %d entries", MaxEntries))
	}
	if m.pages > MaxPages-(c.round.Present+c.round.Lazy+c.round.Parent) {
		return bad(m, fmt.Sprintf("more than %d pages", uint64(MaxPages)))
	}
	return nil
}

// note puts an entry into the page map of the open space.
func (c *conversation) note(e images.Entry) {
	if n := len(c.entries); n > 0 && c.entries[n-1].End() == e.Vaddr && c.entries[n-1].Flags == e.Flags {
		c.entries[n-1].Pages += e.Pages
		return
	}
	c.entries = append(c.entries, e)
	c.total++
}

// checkHole finds the pages of a hole that the destination lacks.
func (c *conversation) checkHole(r pagestream.Range) {
	n := len(c.missing)
	same := n > 0 && c.missing[n-1].space == c.space
	if same {
		c.missing[n-1].ranges = c.have.missing(c.missing[n-1].ranges, r)
		return
	}
	if lacks := c.have.missing(nil, r); len(lacks) > 0 {
		c.missing = append(c.missing, hole{c.space, lacks})
	}
}

// get takes a request for pages. Its dst_id is a bare pid (criu/page-xfer.c,
// request_remote_pages).
func (c *conversation) get(m message) (step, error) {
	space := pagestream.Space{Container: c.container, Kind: pagestream.Process, ID: m.dst}
	if err := space.Valid(); err != nil {
		return step{}, fmt.Errorf("message %s: %w: %w", m, err, ErrProtocol)
	}
	if err := m.span().Valid(); err != nil {
		return step{}, fmt.Errorf("message %s: %w: %w", m, err, ErrProtocol)
	}
	return step{kind: get, space: space, pages: m.span()}, nil
}
