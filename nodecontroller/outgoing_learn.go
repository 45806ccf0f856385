package nodecontroller

import (
	"time"

	"godwit.dev/godwit/nodecontroller/standstill"
	"godwit.dev/godwit/pagestream/precopy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// like is what the cost of this migration's freeze depends on.
func (m *outgoing) like() standstill.Move {
	return standstill.Move{
		Pod: m.pod.FullName(), Peer: m.request.To, Containers: len(m.description.Containers), Late: m.request.LatePod,
	}
}

// expectedStandstill is what the freeze is expected to cost, nil if nothing is known of any.
func (m *outgoing) expectedStandstill() *shimv1.Standstill {
	s := m.d.freezes.Expect(m.like())
	if s == (precopy.Standstill{}) {
		return nil
	}
	return &shimv1.Standstill{
		FreezeUs: uint64(s.Freeze.Microseconds()), DumpUs: uint64(s.Dump.Microseconds()), RestoreUs: uint64(s.Restore.Microseconds()),
	}
}

// learn remembers what the freeze of a live migration has cost.
func (m *outgoing) learn() {
	if m.downtime == nil || m.cut == nil || m.mode() == modeCold || m.request.CompareDump {
		return
	}
	move := m.like()
	move.Cost = standstillOf(m.cut, m.downtime.MeasuredUs)
	if err := m.d.freezes.Note(move); err != nil {
		m.log.Warn("what the freeze has cost is not remembered", "error", err)
	}
}

// standstillOf parts a measured downtime, in microseconds, into what does not depend on the
// last copy. Where that took the longest, the files waited for the link as well, and only
// the images are known to have been made beside it.
func standstillOf(cut *shimv1.CutOverResponse, measured uint64) precopy.Standstill {
	dumped := cut.DumpUs
	if cut.FilesUs > cut.PagesUs {
		dumped = max(dumped, cut.FilesUs)
	}
	return precopy.Standstill{
		Freeze: microseconds(cut.FreezeUs), Dump: microseconds(dumped - min(dumped, cut.FreezeUs)),
		Restore: microseconds(measured - min(measured, cut.TotalUs)),
	}
}

func microseconds(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
