// Package pagestream moves memory from one kernel to another. This package
// holds the few types that its parts share: a page, a range of pages, and the
// address space that they belong to. Finding dirty pages is package track's
// subject, rounds are package precopy's, the wire is package wire's, and the
// pages at the destination are package store's. Nothing below it knows of
// containers or Kubernetes.
package pagestream

import (
	"errors"
	"fmt"
)

// PageSize is the size of a page in bytes. CRIU's images and its page-server
// protocol count in these; a kernel with larger base pages is not supported.
const PageSize = 4096

// MaxAddress is the first address above any range of a valid address space:
// 57 bits, the widest user address space that a supported kernel has.
const MaxAddress = 1 << 57

// MaxContainers is the number of containers that one pod may have.
const MaxContainers = 1024

// maxPID is the kernel's PID_MAX_LIMIT (include/linux/threads.h).
const maxPID = 1 << 22

// ErrInvalid is wrapped by every error that Valid returns.
var ErrInvalid = errors.New("invalid")

// Range is a run of pages of one address space.
type Range struct {
	Start uint64 // address of the first byte, a multiple of PageSize
	Pages uint64 // how many pages
}

// End is the address of the first byte after the range.
func (r Range) End() uint64 { return r.Start + r.Pages*PageSize }

// Bytes is the length of the range in bytes.
func (r Range) Bytes() uint64 { return r.Pages * PageSize }

// String writes the range as its addresses, [start,end) in hexadecimal.
func (r Range) String() string {
	return fmt.Sprintf("%#x-%#x", r.Start, r.End())
}

// Valid returns an error if the range is empty, starts off a page boundary or
// reaches over MaxAddress. A range from a peer must pass it before its End is
// computed, as End may wrap around otherwise.
func (r Range) Valid() error {
	switch {
	case r.Start%PageSize != 0:
		return fmt.Errorf("range at %#x: start is no page boundary: %w", r.Start, ErrInvalid)
	case r.Pages == 0:
		return fmt.Errorf("range at %#x: no pages: %w", r.Start, ErrInvalid)
	case r.Start >= MaxAddress || r.Pages > (MaxAddress-r.Start)/PageSize:
		return fmt.Errorf("range of %d pages at %#x: above the highest address %#x: %w",
			r.Pages, r.Start, uint64(MaxAddress), ErrInvalid)
	}
	return nil
}

// SpaceKind says what an address space belongs to.
type SpaceKind uint8

const (
	// Process is the memory of a process; Space.ID is its pid.
	Process SpaceKind = 1
	// Shared is a shared memory object, addressed from its first byte;
	// Space.ID is the id of CRIU's shmem image.
	Shared SpaceKind = 2
	// Content is pages that CRIU's images of a container have, each content
	// once, whoever has it and wherever: a page's address is PageSize times the
	// number that its content has. Space.ID is 0.
	Content SpaceKind = 3
)

// String names the kind.
func (k SpaceKind) String() string {
	switch k {
	case Process:
		return "process"
	case Shared:
		return "shared"
	case Content:
		return "content"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Space names an address space of a migration. The name is the same at the
// source and at the destination.
type Space struct {
	Container uint16 // index of the container in the pod
	Kind      SpaceKind
	// ID is, for a Process, the process' pid as its container's pid
	// namespace has it (CRIU's vpid), for Shared the id of CRIU's shmem
	// image, and for Content 0.
	ID uint64
}

// String writes the space as container/kind/id.
func (s Space) String() string {
	return fmt.Sprintf("%d/%s/%d", s.Container, s.Kind, s.ID)
}

// Valid returns an error if a field is out of its bounds. A shared id is
// bounded to 32 bits, as CRIU's page-server protocol shifts ids by 8; 0 is that
// of the first System V segment of a pod.
func (s Space) Valid() error {
	switch {
	case s.Container >= MaxContainers:
		return fmt.Errorf("space %s: container index over %d: %w", s, MaxContainers-1, ErrInvalid)
	case s.Kind == Process && (s.ID == 0 || s.ID > maxPID):
		return fmt.Errorf("space %s: pid out of 1..%d: %w", s, maxPID, ErrInvalid)
	case s.Kind == Shared && s.ID > 1<<32-1:
		return fmt.Errorf("space %s: shared memory id out of 0..%d: %w", s, uint32(1<<32-1), ErrInvalid)
	case s.Kind == Content && s.ID != 0:
		return fmt.Errorf("space %s: a container has one space of contents, 0: %w", s, ErrInvalid)
	case s.Kind != Process && s.Kind != Shared && s.Kind != Content:
		return fmt.Errorf("space %s: unknown kind: %w", s, ErrInvalid)
	}
	return nil
}
