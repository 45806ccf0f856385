package criu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"godwit.dev/godwit/pagestream/pagemap"
)

// flagsField begins the last line of an area in smaps (fs/proc/task_mmu.c, show_smap_vma_flags).
const flagsField = "VmFlags:"

// section is what smaps has of one area.
type section struct {
	area   pagemap.VMA
	header []byte // its line in maps
	counts []byte // the lines between, which CRIU does not read (criu/proc_parse.c, parse_smaps)
	flags  []byte // what follows flagsField, with the line's end; nil if it is not known
}

// readSections reads a process' smaps. The kernel looks at every page for it: 10 to 30 ms for each GiB.
func readSections(pid int) ([]section, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	return split(text)
}

// readHeaders reads a process' maps, which takes no look at its pages.
func readHeaders(pid int) ([]section, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	return split(text)
}

// split divides the text of smaps, or of maps, into areas.
func split(text []byte) ([]section, error) {
	var sections []section
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n') + 1
		if end == 0 {
			end = len(text)
		}
		s := section{header: text[:end]}
		for isField(text[end:]) {
			line := text[end:]
			if i := bytes.IndexByte(line, '\n'); i >= 0 {
				line = line[:i+1]
			}
			if flags, found := bytes.CutPrefix(line, []byte(flagsField)); found {
				s.flags = flags
			} else {
				s.counts = text[len(s.header) : end+len(line)]
			}
			end += len(line)
		}
		areas, err := pagemap.ParseSmaps(nil, text[:end])
		if err != nil {
			return nil, err
		}
		s.area = areas[0]
		sections, text = append(sections, s), text[end:]
	}
	return sections, nil
}

// isField tells whether a line of smaps is no header: those begin with an address.
func isField(text []byte) bool { return len(text) > 0 && text[0] >= 'A' && text[0] <= 'Z' }

// sameHeaders tells whether nothing has been mapped or unmapped since.
func sameHeaders(now, before []section) bool {
	return slices.EqualFunc(now, before, func(a, b section) bool { return bytes.Equal(a.header, b.header) })
}

// carryOver gives each area of now that was there before what was known of it, and returns the indices of the others.
func carryOver(now, before []section) (unknown []int) {
	for i := range now {
		j, found := slices.BinarySearchFunc(before, now[i].area.Start, startsAt)
		if found && before[j].flags != nil && bytes.Equal(now[i].header, before[j].header) {
			now[i] = before[j]
			continue
		}
		unknown = append(unknown, i)
	}
	return unknown
}

func startsAt(s section, start uint64) int {
	switch {
	case s.area.Start < start:
		return -1
	case s.area.Start > start:
		return 1
	}
	return 0
}

// grow gives those of the unknown areas that have grown out of others the flags of these, and returns the rest: the kernel
// joins areas only if their flags are the same (mm/vma.c, is_mergeable_vma), and a program that changes the flags of a part
// of one splits it.
func grow(now, before []section, unknown []int) (rest []int) {
	for _, i := range unknown {
		from, ok := grownFrom(now[i].area, before)
		if !ok {
			rest = append(rest, i)
			continue
		}
		header := now[i].header
		now[i] = section{area: now[i].area, header: header, flags: from.flags}
		now[i].area.Flags = from.area.Flags
	}
	return rest
}

// grownFrom finds what an area has grown out of: the areas of before that it touches lie in it whole, all are private and of
// no file, as it is, and have the same permissions, name and flags.
func grownFrom(area pagemap.VMA, before []section) (section, bool) {
	if area.Inode != 0 || area.Perms&pagemap.Shared != 0 {
		return section{}, false
	}
	first, _ := slices.BinarySearchFunc(before, area.Start, endsBehind)
	var from section
	for _, s := range before[first:] {
		if s.area.Start >= area.End {
			break
		}
		inside := s.area.Start >= area.Start && s.area.End <= area.End
		alike := s.area.Perms == area.Perms && s.area.Inode == 0 && s.area.Path == area.Path
		if !inside || !alike || s.flags == nil || from.flags != nil && !sameFlags(from.flags, s.flags) {
			return section{}, false
		}
		from = s
	}
	return from, from.flags != nil
}

// endsBehind orders areas by whether they end behind an address.
func endsBehind(s section, address uint64) int {
	if s.area.End <= address {
		return -1
	}
	return 1
}

// sameFlags compares flags but for those that the tracker of pages sets, which areas lose by being joined: "uw" and "um"
// of a userfaultfd, and "sd", soft-dirty.
func sameFlags(a, b []byte) bool {
	return slices.EqualFunc(lasting(a), lasting(b), bytes.Equal)
}

func lasting(flags []byte) [][]byte {
	return slices.DeleteFunc(bytes.Fields(flags), func(f []byte) bool {
		return slices.Contains([]string{"uw", "um", "sd"}, string(f))
	})
}

// readUnknown reads smaps of a frozen process as far as the last of the unknown areas, and takes over what it has of these. The
// kernel writes a few areas for each read (fs/seq_file.c, seq_read_iter), so the pages of those behind it are not looked at.
func readUnknown(pid int, now []section, unknown []int) error {
	if len(unknown) == 0 {
		return nil
	}
	text, err := readAsFarAs(fmt.Sprintf("/proc/%d/smaps", pid), now[unknown[len(unknown)-1]].header)
	if err != nil {
		return fmt.Errorf("areas of process %d: %w", pid, err)
	}
	read, err := split(text)
	if err != nil {
		return fmt.Errorf("areas of process %d: %w", pid, err)
	}
	for _, i := range unknown {
		if i >= len(read) || read[i].flags == nil || !bytes.Equal(read[i].header, now[i].header) {
			return fmt.Errorf("areas of process %d: smaps has no %.60q where maps has it: %w", pid, now[i].header, errMoving)
		}
		now[i] = read[i]
	}
	return nil
}

// errMoving is why smaps has other areas than maps: the process runs.
var errMoving = errors.New("the process changes its areas")

// readAsFarAs reads smaps to the end of the area with a header, or of the file.
func readAsFarAs(path string, header []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var text []byte
	at := 0 // where the header may begin, or what follows it
	found := false
	for {
		text = slices.Grow(text, 16<<10)
		n, err := f.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		if err == io.EOF {
			return text, nil
		}
		if err != nil {
			return nil, err
		}
		if !found {
			i := bytes.Index(text[at:], header)
			if i < 0 {
				at = max(at, len(text)-len(header))
				continue
			}
			found, at = true, at+i+len(header)
		}
		if i := bytes.Index(text[at:], []byte(flagsField)); i >= 0 {
			if end := bytes.IndexByte(text[at+i:], '\n'); end >= 0 {
				return text[:at+i+end+1], nil
			}
		}
	}
}
