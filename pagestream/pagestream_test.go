package pagestream

import (
	"errors"
	"testing"
)

func TestRangeValidRejectsWhatEndCannotHold(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Range
		ok   bool
	}{
		{"one page at zero", Range{0, 1}, true},
		{"the whole space", Range{0, MaxAddress / PageSize}, true},
		{"last page", Range{MaxAddress - PageSize, 1}, true},
		{"empty", Range{PageSize, 0}, false},
		{"off a boundary", Range{1, 1}, false},
		{"one page too many", Range{PageSize, MaxAddress / PageSize}, false},
		{"starts at the end", Range{MaxAddress, 1}, false},
		{"wraps around", Range{PageSize, 1 << 52}, false},
		{"wraps around twice", Range{PageSize, ^uint64(0)}, false},
		{"start over the end", Range{^uint64(0) &^ (PageSize - 1), 1}, false},
	} {
		err := c.r.Valid()
		if (err == nil) != c.ok {
			t.Errorf("%s: Valid = %v, want ok %v", c.name, err, c.ok)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v does not wrap ErrInvalid", c.name, err)
		}
		if err == nil && c.r.End() != c.r.Start+c.r.Bytes() {
			t.Errorf("%s: End %#x is not Start plus Bytes", c.name, c.r.End())
		}
	}
}

func TestSpaceValidBoundsEveryField(t *testing.T) {
	for _, c := range []struct {
		s  Space
		ok bool
	}{
		{Space{0, Process, 1}, true},
		{Space{MaxContainers - 1, Shared, 1<<32 - 1}, true},
		{Space{MaxContainers, Process, 1}, false},
		{Space{0, Process, 0}, false},
		{Space{0, Process, maxPID + 1}, false},
		{Space{0, Shared, 0}, true},
		{Space{0, Shared, 1 << 32}, false},
		{Space{0, 0, 1}, false},
		{Space{0, 3, 1}, false},
	} {
		if err := c.s.Valid(); (err == nil) != c.ok {
			t.Errorf("%s: Valid = %v, want ok %v", c.s, err, c.ok)
		}
	}
}
