// Package pagemap reads what the kernel tells about the memory of a process:
// its areas (/proc/PID/maps and smaps), the state of its pages
// (/proc/PID/pagemap and the PAGEMAP_SCAN ioctl) and their content
// (process_vm_readv, /proc/PID/mem). Which pages are worth sending, and when,
// it leaves to package track and package precopy.
package pagemap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unsafe"
)

// ErrMalformed is wrapped by the errors of text that is not what the kernel
// writes into maps or smaps.
var ErrMalformed = errors.New("malformed memory map")

// Perms are the permissions of an area, as maps has them now. They say nothing
// of what they were a moment ago.
type Perms uint8

const (
	// Read is PROT_READ.
	Read Perms = 1 << iota
	// Write is PROT_WRITE.
	Write
	// Exec is PROT_EXEC.
	Exec
	// Shared is MAP_SHARED; without it the area is MAP_PRIVATE.
	Shared
)

// Flags are those VmFlags of smaps that somebody here decides by
// (show_smap_vma_flags in the kernel's fs/proc/task_mmu.c). Maps does not carry
// them.
type Flags uint16

const (
	// FlagsKnown says that the flags were read from smaps at all.
	FlagsKnown Flags = 1 << iota
	// FlagGrowsDown is "gd", VM_GROWSDOWN.
	FlagGrowsDown
	// FlagLocked is "lo", VM_LOCKED.
	FlagLocked
	// FlagHugeTLB is "ht", VM_HUGETLB.
	FlagHugeTLB
	// FlagDroppable is "dp", VM_DROPPABLE.
	FlagDroppable
	// FlagIO is "io", VM_IO.
	FlagIO
	// FlagPFNMap is "pf", VM_PFNMAP.
	FlagPFNMap
	// FlagShadowStack is "ss", VM_SHADOW_STACK.
	FlagShadowStack
	// FlagUffdWP is "uw": a userfaultfd write-protects the area.
	FlagUffdWP
)

var flagNames = map[[2]byte]Flags{
	{'g', 'd'}: FlagGrowsDown,
	{'l', 'o'}: FlagLocked,
	{'h', 't'}: FlagHugeTLB,
	{'d', 'p'}: FlagDroppable,
	{'i', 'o'}: FlagIO,
	{'p', 'f'}: FlagPFNMap,
	{'s', 's'}: FlagShadowStack,
	{'u', 'w'}: FlagUffdWP,
}

// VMA is one area of a process' address space, a line of maps.
type VMA struct {
	Start, End   uint64 // addresses in bytes, End is the first byte after it
	Offset       uint64 // of the file, in bytes
	Inode        uint64
	Major, Minor uint32 // device of the file
	Perms        Perms
	Flags        Flags  // zero unless read from smaps
	Path         string // as the kernel writes it, "[heap]" and the like too; empty when there is none
}

// Bytes is the length of the area.
func (v VMA) Bytes() uint64 { return v.End - v.Start }

// ReadMaps returns the areas of the process, ascending. While the process runs
// the kernel gives them in pieces: an area that changes meanwhile may be there
// in its old or its new form, one that does not change is never missing. (The
// two forms may overlap; the later one then counts from where the earlier ends.) An
// empty list is what a process without memory has (a zombie, a kernel thread).
// Its text is read into buf, which grows as needed and comes back for the next
// call; nil is fine.
func ReadMaps(pid int, dst []VMA, buf []byte) ([]VMA, []byte, error) {
	buf, err := readInto(fmt.Sprintf("/proc/%d/maps", pid), buf)
	if err != nil {
		return dst, buf, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	dst, err = ParseMaps(dst, buf)
	if err != nil {
		return dst, buf, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	return dst, buf, nil
}

// ReadSmaps is ReadMaps with the flags of each area. The kernel walks every
// page table for it: about 0.03 s for each GB.
func ReadSmaps(pid int) ([]VMA, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	vmas, err := ParseSmaps(nil, text)
	if err != nil {
		return nil, fmt.Errorf("areas of process %d: %w", pid, err)
	}
	return vmas, nil
}

// readInto reads a file of /proc whole into buf, from its first byte.
func readInto(path string, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return buf[:0], err
	}
	defer f.Close()
	buf = buf[:0]
	for {
		if cap(buf)-len(buf) < 4096 {
			buf = append(buf, make([]byte, max(32<<10, cap(buf)))...)[:len(buf)]
		}
		n, err := f.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

// ParseMaps appends the areas that text, the content of a maps file, lists. They
// ascend and do not overlap, see ReadMaps.
func ParseMaps(dst []VMA, text []byte) ([]VMA, error) {
	first := len(dst)
	paths := string(text) // one allocation that every Path shares
	at := 0
	for n := 1; at < len(text); n++ {
		line, path := text[at:], paths[at:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, path = line[:i], path[:i]
		}
		at += len(line) + 1
		v, err := parseHeader(line, path)
		if err != nil {
			return dst, fmt.Errorf("line %d: %w", n, err)
		}
		if follow(dst[first:], &v) {
			dst = append(dst, v)
		}
	}
	return dst, nil
}

// ParseSmaps appends the areas that text, the content of an smaps file, lists,
// with their flags.
func ParseSmaps(dst []VMA, text []byte) ([]VMA, error) {
	first := len(dst)
	paths := string(text)
	at, skipped := 0, true // skipped: the lines that follow belong to no area of ours
	for n := 1; at < len(text); n++ {
		line, path := text[at:], paths[at:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, path = line[:i], path[:i]
		}
		at += len(line) + 1
		// A header starts with an address, a field with a capital letter.
		if len(line) > 0 && line[0] >= 'A' && line[0] <= 'Z' {
			if flags, ok := bytes.CutPrefix(line, []byte("VmFlags:")); ok && !skipped {
				dst[len(dst)-1].Flags = parseFlags(flags)
			}
			continue
		}
		v, err := parseHeader(line, path)
		if err != nil {
			return dst, fmt.Errorf("line %d: %w", n, err)
		}
		if skipped = !follow(dst[first:], &v); !skipped {
			dst = append(dst, v)
		}
	}
	return dst, nil
}

// follow cuts v to what comes after the areas before it, and says whether
// anything is left.
func follow(before []VMA, v *VMA) bool {
	if n := len(before); n > 0 && v.Start < before[n-1].End {
		if v.End <= before[n-1].End {
			return false
		}
		v.Offset += before[n-1].End - v.Start
		v.Start = before[n-1].End
	}
	return true
}

func parseFlags(text []byte) Flags {
	flags := FlagsKnown
	for field := range bytes.FieldsSeq(text) {
		if len(field) == 2 {
			flags |= flagNames[[2]byte(field)]
		}
	}
	return flags
}

// parseHeader reads a line of maps, "start-end perms offset major:minor inode
// path" (show_map_vma in fs/proc/task_mmu.c). path is the same line.
func parseHeader(line []byte, path string) (VMA, error) {
	var v VMA
	s := scanner{rest: line}
	v.Start = s.number(16, 64, '-')
	v.End = s.number(16, 64, ' ')
	v.Perms = s.perms()
	v.Offset = s.number(16, 64, ' ')
	v.Major = uint32(s.number(16, 32, ':'))
	v.Minor = uint32(s.number(16, 32, ' '))
	v.Inode = s.number(10, 64, ' ')
	if s.failed {
		return VMA{}, fmt.Errorf("%.80q is no area: %w", line, ErrMalformed)
	}
	if v.Start >= v.End {
		return VMA{}, fmt.Errorf("area %#x-%#x ends before it starts: %w", v.Start, v.End, ErrMalformed)
	}
	v.Path = path[len(line)-len(bytes.TrimLeft(s.rest, " ")):]
	return v, nil
}

// scanner cuts fields off a line and remembers whether one was wrong.
type scanner struct {
	rest   []byte
	failed bool
}

// field returns what is before the separator. The last field of an area without
// a path may end the line.
func (s *scanner) field(sep byte) []byte {
	i := bytes.IndexByte(s.rest, sep)
	if i < 0 {
		field := s.rest
		s.rest = nil
		return field
	}
	field := s.rest[:i]
	s.rest = s.rest[i+1:]
	return field
}

func (s *scanner) number(base, bits int, sep byte) uint64 {
	field := s.field(sep)
	// The string lives no longer than the call, and nobody writes to the line.
	n, err := strconv.ParseUint(unsafe.String(unsafe.SliceData(field), len(field)), base, bits)
	if err != nil {
		s.failed = true
	}
	return n
}

func (s *scanner) perms() Perms {
	field := s.field(' ')
	if len(field) != 4 {
		s.failed = true
		return 0
	}
	var p Perms
	for i, letter := range []struct {
		set byte
		bit Perms
	}{{'r', Read}, {'w', Write}, {'x', Exec}} {
		switch field[i] {
		case letter.set:
			p |= letter.bit
		case '-':
		default:
			s.failed = true
		}
	}
	switch field[3] {
	case 's':
		p |= Shared
	case 'p':
	default:
		s.failed = true
	}
	return p
}
