package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// CRIU looks at every page of every area while the pod is frozen, 0.1 s for
// each GB, also at those that we have sent already. So we show it an smaps in which
// the big private areas, whose pages are all our business anyway, are one page long, and
// put the truth back into the images afterwards. It passes over that page, as well, if it knows the flag
// "dp" of areas that the kernel may drop (CRIU 4.2, criu/mem.c, generate_vma_iovs).
//
// To leave them as long as they are, with that flag, would not do: CRIU takes room for a record of 16 bytes for each page that
// areas may have, and copies all of that, used or not, into the process (criu/mem.c, dump_pages_args_size and
// __parasite_dump_pages_seized): 4 to 8 ms for each GiB.

// minOwned is the smallest area worth hiding from CRIU, bytes.
const minOwned = 1 << 20

// shownBytes is how much of an area that is ours CRIU is shown.
const shownBytes = pagestream.PageSize

// Flags of areas as CRIU's images have them (mmap(2)).
const (
	mapPrivate   = 0x02
	mapDroppable = 0x08
)

// View is the memory of one process as CRIU is shown it.
type View struct {
	// PID as the caller sees it, VPID as the process does.
	PID, VPID int
	file      string
	// sections are the areas that the view was made from: if the process' maps still
	// has the same lines when it is frozen, the view holds.
	sections []section
	owned    []pagestream.Range
	// guards: guard pages are no reason to leave an area to CRIU. It knows them, and finds them in hidden areas, too, by
	// their addresses; or it does not look for any, and we list them.
	guards bool
}

// NewView makes the view of a running process, in a file of dir. guards says whether the CRIU that sees it knows guard pages; HideGuards is to be
// called then.
func NewView(dir string, pid, vpid int, guards bool) (*View, error) {
	v := &View{PID: pid, VPID: vpid, file: filepath.Join(dir, "smaps-"+strconv.Itoa(pid)), guards: guards}
	sections, err := readSections(pid)
	if err != nil {
		return nil, err
	}
	if !guards {
		if err := markGuarded(pid, sections); err != nil {
			return nil, err
		}
	}
	return v, v.make(sections)
}

// Mount is the bind mount by which CRIU sees the view.
func (v *View) Mount() (source, target string) {
	return v.file, fmt.Sprintf("/proc/%d/smaps", v.PID)
}

// cheapWalk is how much memory the kernel may look at while the process is frozen, bytes: about 1 ms.
const cheapWalk = 64 << 20

// Refresh makes the view again if the process, which is frozen now, has changed
// its areas since. It says whether it had to.
//
// Only what is new is asked for, as each page that smaps counts costs time. If even that would be much, because a big area has
// grown, then it keeps the flags of what it has grown out of.
func (v *View) Refresh() (bool, error) {
	now, err := readHeaders(v.PID)
	if err != nil {
		return false, err
	}
	if sameHeaders(now, v.sections) {
		return false, nil
	}
	unknown := carryOver(now, v.sections)
	if upTo(now, unknown) > cheapWalk {
		unknown = grow(now, v.sections, unknown)
	}
	err = readUnknown(v.PID, now, unknown)
	if errors.Is(err, errMoving) {
		now, err = readSections(v.PID)
	}
	if err != nil {
		return false, err
	}
	return true, v.make(now)
}

// upTo is how much memory lies in the areas up to the last of those that are unknown, bytes.
func upTo(now []section, unknown []int) uint64 {
	var sum uint64
	if len(unknown) > 0 {
		for _, s := range now[:unknown[len(unknown)-1]+1] {
			sum += s.area.Bytes()
		}
	}
	return sum
}

// make writes the areas as CRIU is to see them.
func (v *View) make(sections []section) error {
	shown, owned := show(sections, v.guards)
	if err := os.WriteFile(v.file, shown, 0o600); err != nil {
		return fmt.Errorf("write view of process %d: %w", v.PID, err)
	}
	v.sections, v.owned = sections, owned
	return nil
}

// show writes the text of an smaps file in which the areas that are ours are short and droppable, and returns them.
func show(sections []section, guards bool) (shown []byte, owned []pagestream.Range) {
	for _, s := range sections {
		if !ours(s.area, s.flags, guards) {
			shown = append(append(shown, s.header...), s.counts...)
			if s.flags != nil {
				shown = append(append(shown, flagsField...), s.flags...)
			}
			continue
		}
		owned = append(owned, pagestream.Range{Start: s.area.Start, Pages: s.area.Bytes() / pagestream.PageSize})
		_, rest, _ := bytes.Cut(s.header, []byte(" "))
		shown = fmt.Appendf(shown, "%08x-%08x %s%s%s%s dp \n", s.area.Start, s.area.Start+shownBytes, rest,
			s.counts, flagsField, bytes.TrimRight(s.flags, " \n"))
	}
	return shown, owned
}

// ours says whether an area's pages are ours to account for: private anonymous
// memory that CRIU would call lazy (criu/include/mem.h, vma_entry_can_be_lazy)
// and that has nothing special about it. Those with guard pages are if guards says so, also small ones of more than what CRIU is shown: it must
// not see them.
func ours(a pagemap.VMA, flags []byte, guards bool) bool {
	const special = pagemap.FlagGrowsDown | pagemap.FlagLocked | pagemap.FlagHugeTLB | pagemap.FlagDroppable |
		pagemap.FlagIO | pagemap.FlagPFNMap | pagemap.FlagShadowStack
	named := a.Path != "" && a.Path != "[heap]" && !bytes.HasPrefix([]byte(a.Path), []byte("[anon:"))
	plain := a.Perms == pagemap.Read|pagemap.Write && a.Inode == 0 && !named && a.Flags&pagemap.FlagsKnown != 0 && a.Flags&special == 0
	if plain && guarded(flags) {
		return guards && a.Bytes() > shownBytes
	}
	return plain && a.Bytes() >= minOwned
}

// guardFlag is put before the flags of areas that have guard pages.
const guardFlag = " gu"

// guarded finds the flag "gu": pages of the area are guard pages
// (MADV_GUARD_INSTALL).
func guarded(flags []byte) bool {
	for f := range bytes.FieldsSeq(flags) {
		if string(f) == "gu" {
			return true
		}
	}
	return false
}

// markGuarded gives areas that have guard pages the flag that says so: not every kernel that tells guard pages, as those do from
// 6.15 on, has it.
func markGuarded(pid int, sections []section) error {
	if pagemap.ProbeGuard() != nil {
		return nil
	}
	f, err := pagemap.Open(pid)
	if err != nil {
		return err
	}
	defer f.Close()
	var found [1]pagemap.Region
	for i, s := range sections {
		if !ours(s.area, s.flags, false) {
			continue
		}
		n, _, err := f.Scan(pagemap.Query{Start: s.area.Start, End: s.area.End, Mask: pagemap.Guard}, found[:])
		if err != nil {
			return err
		}
		if n > 0 {
			sections[i].flags = append([]byte(guardFlag), s.flags...)
		}
	}
	return nil
}

// ShowViews mounts each pair of paths, source then target, in a new mount
// namespace of the calling thread, which must be locked to its goroutine. The
// namespace ends with what the caller executes.
func ShowViews(pairs []string) error {
	if len(pairs)%2 != 0 {
		return errors.New("paths to mount come in pairs")
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	// Mounts of the node still arrive, ours do not leave.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for i := 0; i < len(pairs); i += 2 {
		err := unix.Mount(pairs[i], pairs[i+1], "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("show %s: %w", pairs[i+1], err)
		}
	}
	return nil
}
