package criu

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// HideGuards hides areas with guard pages from CRIU as well, also small ones, whose pages are ours to account for then, and says whether
// there are guard pages left that CRIU has to look for, in areas that it has to see as they are. It looks only into what CRIU is shown.
func (v *View) HideGuards() (left bool, err error) {
	found, err := guardsOutside(v.PID, v.sections, v.owned)
	if err != nil || len(found) == 0 {
		return false, err
	}
	marked := false
	for i, s := range v.sections {
		area := []pagestream.Range{{Start: s.area.Start, Pages: s.area.Bytes() / pagestream.PageSize}}
		if !guarded(s.flags) && len(pagestream.Intersect(found, area)) > 0 {
			v.sections[i].flags = append([]byte(guardFlag), s.flags...)
			marked = true
		}
	}
	if marked {
		if err := v.make(v.sections); err != nil {
			return false, err
		}
	}
	return len(pagestream.Subtract(found, v.owned)) > 0, nil
}

// HasGuards says whether a process that has no view has guard pages.
func HasGuards(pid int) (bool, error) {
	sections, err := readHeaders(pid)
	if err != nil {
		return false, err
	}
	found, err := guardsOutside(pid, sections, nil)
	return len(found) > 0, err
}

// guardsOutside finds guard pages of a process that are not in areas that are ours, in one walk from each of these to the next: they are the
// big ones, and the kernel passes over what is not mapped.
func guardsOutside(pid int, sections []section, ours []pagestream.Range) (guards []pagestream.Range, err error) {
	all := bounds(sections)
	if all.Pages == 0 {
		return nil, nil
	}
	f, err := pagemap.Open(pid)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf [64]pagemap.Region
	for _, r := range pagestream.Subtract([]pagestream.Range{all}, ours) {
		q := pagemap.Query{Start: r.Start, End: r.End(), Mask: pagemap.Guard, Return: pagemap.Guard}
		err := f.Walk(q, buf[:], func(found []pagemap.Region) {
			for _, g := range found {
				guards = pagestream.AppendRun(guards, pagestream.Range{Start: g.Start, Pages: g.Pages()})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return guards, nil
}

// bounds are from the first area of a process to the last, without the kernel's own at the end of all addresses.
func bounds(sections []section) (all pagestream.Range) {
	for len(sections) > 0 && sections[len(sections)-1].area.Path == "[vsyscall]" {
		sections = sections[:len(sections)-1]
	}
	if n := len(sections); n > 0 {
		first, last := sections[0].area, sections[n-1].area
		all = pagestream.Range{Start: first.Start, Pages: (last.End - first.Start) / pagestream.PageSize}
	}
	return all
}

// IsGone says that a process has ended.
func IsGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }
