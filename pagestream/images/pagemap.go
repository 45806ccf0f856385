package images

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"

	"godwit.dev/godwit/pagestream"
	"google.golang.org/protobuf/encoding/protowire"
)

// Flags say where the pages of an entry are (criu/include/pagemap.h).
type Flags uint32

const (
	// Parent: in the images that this dump builds on.
	Parent Flags = 1 << 0
	// Lazy: to be filled in after the restore, if that is lazy.
	Lazy Flags = 1 << 1
	// Present: in the pages file, behind those of the present entries before.
	Present Flags = 1 << 2

	knownFlags = Parent | Lazy | Present
)

// Entry is a run of pages that a pagemap lists.
type Entry struct {
	Vaddr uint64 // address; in shared memory the offset from its beginning
	Pages uint64
	Flags Flags
}

// InParent says that the pages are in the images that this dump builds on.
func (e Entry) InParent() bool { return e.Flags&Parent != 0 }

// Lazy says that a lazy restore leaves the pages to the fault server, also if
// they are present (criu/mem.c, restore_priv_vma_content).
func (e Entry) Lazy() bool { return e.Flags&Lazy != 0 }

// Present says that the pages are in the pages file.
func (e Entry) Present() bool { return e.Flags&Present != 0 }

// Range is where the pages are.
func (e Entry) Range() pagestream.Range { return pagestream.Range{Start: e.Vaddr, Pages: e.Pages} }

// End is the address of the first byte after the entry.
func (e Entry) End() uint64 { return e.Range().End() }

const (
	// maxEntries bounds a pagemap's memory: enough for 32 GiB in which every
	// other page is a run of its own, 96 MiB of entries.
	maxEntries = 1 << 22
	// maxPagemapRecord is far over the six varints of an entry; fields that a
	// later CRIU adds have room.
	maxPagemapRecord = 1 << 10
	// maxEntryPages is what field 2 can say, 16 TiB.
	maxEntryPages = math.MaxUint32
)

// ReadPagemap decodes a pagemap. Entries come out as a current CRIU would have
// written them (criu/pagemap.c, init_compat_pagemap_entry): the page count from
// either field, in_parent as the flag Parent, Present where there are no flags.
// They ascend, do not overlap and lie in an address space; if not, or if there
// are more than a few million, the error wraps ErrFormat and names the offset.
func ReadPagemap(r io.Reader) (PagesID, []Entry, error) {
	id, entries, err := readPagemap(r)
	if err != nil {
		return 0, nil, fmt.Errorf("pagemap: %w", err)
	}
	return id, entries, nil
}

// ReadPagemapFile decodes the pagemap with this path; errors name it.
func ReadPagemapFile(path string) (PagesID, []Entry, error) {
	f, err := Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	id, entries, err := readPagemap(f)
	if err != nil {
		return 0, nil, fmt.Errorf("pagemap %s: %w", path, err)
	}
	return id, entries, nil
}

// ReadArrangedFile is ReadPagemapFile for a pagemap that WriteArranged may have written: its
// entries come in the order of the file, whatever their addresses are.
func ReadArrangedFile(path string) (PagesID, []Entry, error) {
	f, err := Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close()
	id, entries, err := readEntries(f, false)
	if err != nil {
		return 0, nil, fmt.Errorf("pagemap %s: %w", path, err)
	}
	return id, entries, nil
}

// ReadPagesID says which pages file belongs to the pagemap with this path, whatever the
// order of its entries is; errors name it.
func ReadPagesID(path string) (PagesID, error) {
	f, err := Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	_, id, err := readHead(f)
	if err != nil {
		return 0, fmt.Errorf("pagemap %s: %w", path, err)
	}
	return id, nil
}

// readHead reads a pagemap up to its first entry.
func readHead(r io.Reader) (*records, PagesID, error) {
	rs, err := newRecords(r, magicPagemap, maxPagemapRecord)
	if err != nil {
		return nil, 0, err
	}
	msg, err := rs.read()
	if errors.Is(err, io.EOF) {
		return nil, 0, rs.bad("no head")
	}
	if err != nil {
		return nil, 0, err
	}
	id, err := decodeHead(msg)
	if err != nil {
		return nil, 0, rs.bad("head: %v", err)
	}
	return rs, id, nil
}

func readPagemap(r io.Reader) (PagesID, []Entry, error) { return readEntries(r, true) }

// readEntries reads a pagemap, whose entries have to ascend if that is asked for.
func readEntries(r io.Reader, ascending bool) (PagesID, []Entry, error) {
	rs, id, err := readHead(r)
	if err != nil {
		return 0, nil, err
	}
	var entries []Entry
	for end := uint64(0); ; {
		msg, err := rs.read()
		if errors.Is(err, io.EOF) {
			return id, entries, nil
		}
		if err != nil {
			return 0, nil, err
		}
		e, err := decodeEntry(msg)
		switch {
		case err != nil:
			return 0, nil, rs.bad("entry %d: %v", len(entries), err)
		case ascending && e.Vaddr < end:
			return 0, nil, rs.bad("entry %d at %#x begins before the end %#x of the one before", len(entries), e.Vaddr, end)
		case len(entries) == maxEntries:
			return 0, nil, rs.bad("more than %d entries", maxEntries)
		}
		end = e.End()
		entries = append(entries, e)
	}
}

func decodeHead(msg []byte) (PagesID, error) {
	var id uint64
	err := fields(msg, func(num protowire.Number, v uint64, _ []byte) error {
		if num == 1 {
			id = v
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if id == 0 || id > math.MaxUint32 {
		return 0, fmt.Errorf("pages id %d out of 1..%d", id, uint32(math.MaxUint32))
	}
	return PagesID(id), nil
}

// decodeEntry reads {vaddr=1, compat_nr_pages=2, in_parent=3, flags=4,
// nr_pages=5}; of the counts, field 5 goes first where it is there.
func decodeEntry(msg []byte) (Entry, error) {
	var e Entry
	var compat, flags uint64
	var inParent, hasFlags, hasPages bool
	err := fields(msg, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			e.Vaddr = v
		case 2:
			compat = v
		case 3:
			inParent = v != 0
		case 4:
			flags, hasFlags = v, true
		case 5:
			e.Pages, hasPages = v, true
		}
		return nil
	})
	if err != nil {
		return e, err
	}
	if !hasPages {
		e.Pages = compat
	}
	if flags&^uint64(knownFlags) != 0 {
		return e, fmt.Errorf("unknown flags %#x", flags)
	}
	e.Flags = Flags(flags)
	switch {
	case inParent:
		e.Flags |= Parent
	case !hasFlags:
		e.Flags = Present
	}
	return e, e.valid()
}

func (e Entry) valid() error {
	if err := e.Range().Valid(); err != nil {
		return err
	}
	if e.Pages > maxEntryPages {
		return fmt.Errorf("%d pages in one entry, at most %d are allowed", e.Pages, uint64(maxEntryPages))
	}
	return nil
}

// WritePagemap encodes a pagemap so that every CRIU from 3.17 to 4.2 reads it:
// the page count in the field of old and in that of 4.2. Entries that
// ReadPagemap would not take are an error that wraps ErrFormat.
func WritePagemap(w io.Writer, id PagesID, entries []Entry) error {
	for i, end := 0, uint64(0); i < len(entries); i++ {
		if e := entries[i]; e.Vaddr < end {
			return fmt.Errorf("pagemap: entry %d at %#x: not behind the one before: %w", i, e.Vaddr, ErrFormat)
		} else if e.valid() == nil {
			end = e.End()
		}
	}
	return WriteArranged(w, id, entries)
}

// WriteArranged is WritePagemap with entries in the order that the pages file has, whatever
// their addresses are, which only a pagemap of shared memory may have: CRIU reads that
// entry by entry, each behind the one before in the file (criu/shmem.c,
// do_restore_shmem_content; criu/pagemap.c, advance and maybe_read_page_local; the same from
// 3.17 to 4.2), and looks for nothing in it. It ends at an entry that reaches over the
// memory's size. ReadPagemap does not take such a pagemap.
func WriteArranged(w io.Writer, id PagesID, entries []Entry) error {
	if id == 0 {
		return fmt.Errorf("pagemap: pages id 0: %w", ErrFormat)
	}
	if len(entries) > maxEntries {
		return fmt.Errorf("pagemap: more than %d entries: %w", maxEntries, ErrFormat)
	}
	bw := bufio.NewWriterSize(w, 256<<10)
	err := writeMagic(bw, magicPagemap)
	if err == nil {
		err = writeRecord(bw, appendVarint(nil, 1, uint64(id)))
	}
	var msg []byte
	for i := 0; i < len(entries) && err == nil; i++ {
		e := entries[i]
		if bad := e.valid(); bad != nil || e.Flags&^knownFlags != 0 {
			return fmt.Errorf("pagemap: entry %d at %#x is invalid: %w", i, e.Vaddr, ErrFormat)
		}
		msg = appendEntry(msg[:0], e)
		err = writeRecord(bw, msg)
	}
	if err == nil {
		err = bw.Flush()
	}
	if err != nil {
		return fmt.Errorf("write pagemap: %w", err)
	}
	return nil
}

func appendEntry(b []byte, e Entry) []byte {
	b = appendVarint(b, 1, e.Vaddr)
	b = appendVarint(b, 2, e.Pages)
	if e.InParent() {
		b = appendVarint(b, 3, 1)
	}
	b = appendVarint(b, 4, uint64(e.Flags))
	return appendVarint(b, 5, e.Pages)
}

func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}
