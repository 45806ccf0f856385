package pagestream

// AppendRun adds r to runs, which ascend. r starts at or after the start of
// the last run; where it touches or overlaps that, the two become one.
func AppendRun(runs []Range, r Range) []Range {
	if r.Pages == 0 {
		return runs
	}
	if n := len(runs); n > 0 && r.Start <= runs[n-1].End() {
		last := &runs[n-1]
		if r.End() > last.End() {
			last.Pages = (r.End() - last.Start) / PageSize
		}
		return runs
	}
	return append(runs, r)
}

// PickPages moves the pages for which keep is true to the front of data, which
// holds the pages of runs one after the other, and appends their runs to dst,
// which must not share memory with runs. keep is called once for each page, in
// order.
func PickPages(runs []Range, data []byte, dst []Range, keep func(address uint64, page []byte) bool) ([]Range, []byte) {
	read, kept := 0, 0
	for _, r := range runs {
		for address := r.Start; address < r.End(); address += PageSize {
			page := data[read : read+PageSize]
			read += PageSize
			if !keep(address, page) {
				continue
			}
			if read-PageSize != kept {
				copy(data[kept:], page)
			}
			kept += PageSize
			dst = AppendRun(dst, Range{Start: address, Pages: 1})
		}
	}
	return dst, data[:kept]
}
