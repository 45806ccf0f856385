package pagemap

import "godwit.dev/godwit/pagestream"

// Absent says whether CRIU dumps nothing for a page of these categories, which are
// those that AbsentQuery returns (pmc_fill in criu/pagemap-cache.c): it is neither
// in memory nor in swap, or it is the page of zeros, or a guard page.
func (c Category) Absent() bool {
	return c&(Present|Swapped) == 0 || c&(ZeroPage|Guard) != 0
}

// Skipped are the categories of pages that are there and still never sent: the page
// of zeros, which CRIU does not dump, and guard pages, as far as the kernel tells them.
func Skipped() Category {
	if ProbeGuard() == nil {
		return ZeroPage | Guard
	}
	return ZeroPage
}

// AbsentQuery finds all pages but those that are in memory and hold something. It is
// for who wants to know which pages there are: of memory that is in use few are found,
// and to note a page takes the kernel several times as long as to look at it
// (pagemap_scan_output in fs/proc/task_mmu.c). Pages in swap are found as well, and the
// kernel finds nothing outside of areas: see Category.Absent.
func AbsentQuery() Query {
	return Query{
		Inverted: Present,
		AnyOf:    Present | ZeroPage,
		Return:   Present | Swapped | Skipped(),
	}
}

// PresentPages lists the pages that CRIU would dump of a process' areas, or of parts of them: those that are
// in memory or in swap, but not the page of zeros; and the guard pages, as far as the kernel tells them.
// over ascend, are disjoint, and lie in areas as a whole.
func (f *File) PresentPages(over []pagestream.Range, buf []Region) (pages, guards []pagestream.Range, err error) {
	q := AbsentQuery()
	for _, r := range over {
		q.Start, q.End = r.Start, r.End()
		at := r.Start
		err := f.Walk(q, buf, func(found []Region) {
			for _, a := range found {
				if !a.Categories.Absent() {
					continue
				}
				pages = pagestream.AppendRun(pages, pagestream.Range{Start: at, Pages: (a.Start - at) / pagestream.PageSize})
				if a.Categories&Guard != 0 {
					guards = pagestream.AppendRun(guards, pagestream.Range{Start: a.Start, Pages: a.Pages()})
				}
				at = a.End
			}
		})
		if err != nil {
			return nil, nil, err
		}
		pages = pagestream.AppendRun(pages, pagestream.Range{Start: at, Pages: (r.End() - at) / pagestream.PageSize})
	}
	return pages, guards, nil
}
