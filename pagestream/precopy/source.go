package precopy

import (
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// source is what pages are read from. Its methods may be called by several
// workers at once.
type source interface {
	// read copies the pages of runs, one after the other, into buf, which is
	// as long as they are. Pages that are not there come back as missing, in
	// order, and their place in buf is undefined. An error wraps
	// pagemap.ErrGone if nothing of the space can be read any more because
	// its process has ended.
	read(runs []pagestream.Range, buf []byte) (missing []pagestream.Range, err error)
}

// process reads the memory of a running or frozen process.
type process struct{ pid int }

func (p process) read(runs []pagestream.Range, buf []byte) ([]pagestream.Range, error) {
	return pagemap.ReadMemory(p.pid, runs, buf)
}

// processAreas turns what a tracker found into areas to copy.
func processAreas(memories []Memory) []*area {
	areas := make([]*area, len(memories))
	for i, m := range memories {
		areas[i] = &area{space: m.Space, source: process{m.PID}, ranges: m.Ranges}
	}
	return areas
}
