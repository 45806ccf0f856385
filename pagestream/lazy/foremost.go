package lazy

import (
	"slices"

	"godwit.dev/godwit/pagestream"
)

// What a process wrote last before it was frozen is what it will want first: its stack, the heads of its heap, what it serves requests
// from. Each of these pages would be a fault on the way to its first answer. So they are put in place while the restored processes are
// held and nothing else is to be done but to wait for the commit.
//
// All areas are there and registered then: CRIU says so when all processes have passed the stage in which they set up their memory
// (criu/cr-restore.c, restore_root_task: CR_STATE_RESTORE_SIGCHLD is switched after it, and the post-restore notification comes
// behind; criu/pie/restorer.c, __export_restore_task).

// Foremost is how many pages of a pod are put in place so, 4 MiB: what it takes, 1 to 5 ms of a processor, must not outlast the commit by much.
const Foremost = 1024

// hint has the sources know what their processes will want first, an equal share of what Config allows each. Without the store's word they fault
// on that.
func (s *server) hint() {
	if len(s.sources) == 0 {
		return
	}
	share := s.cfg.Foremost / uint64(len(s.sources))
	for _, src := range s.sources {
		if src.space != nil && share > 0 {
			s.hintOne(src, share)
		}
	}
}

func (s *server) hintOne(src *source, share uint64) {
	recent, err := s.cfg.Reader.Recent(src.space)
	if err != nil {
		s.log.Warn("fault server: what a process will want first is not known", "process", src.pid, "error", err)
		return
	}
	src.foremost = foremost(recent, share)
}

// foremost are the first of the runs that came last, up to so many pages, one at least.
func foremost(recent []pagestream.Range, left uint64) []pagestream.Range {
	for i, r := range recent {
		if r.Pages >= left {
			recent[i].Pages = left
			return recent[:i+1]
		}
		left -= r.Pages
	}
	return recent
}

// fillForemost fills in up to a batch of what the processes will want first, and says whether there was any. What cannot be filled in at
// once is left to the process.
//
// As long as the processes are held it is for when nobody else wants the processors: those who see to the commit, and to the pod's other
// containers, go first.
func (s *server) fillForemost() (worked bool, err error) {
	if !s.made || !s.ready || s.hinted {
		return false, nil
	}
	s.prioritise(s.runs)
	for _, m := range s.order {
		if m.forked || m.dead {
			continue
		}
		if !m.hinted {
			m.hinted, m.foremost = true, slices.Clone(m.source.foremost)
		}
		for len(m.foremost) > 0 {
			r := m.foremost[0]
			at := r.Start
			n, res, err := m.fillImage(&at, r.End())
			switch {
			case err != nil:
				return false, err
			case res == gone:
				m.dead = true
				return true, nil
			case n == 0 || res != filled || at >= r.End():
				m.foremost = m.foremost[1:]
			default:
				m.foremost[0] = pagestream.Range{Start: at, Pages: (r.End() - at) / pageSize}
			}
			if n > 0 {
				return true, nil
			}
		}
	}
	s.hinted = true
	s.prioritise(true)
	return false, nil
}
