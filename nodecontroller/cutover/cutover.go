// Package cutover names the stages of a cutover, from the first that is done for it alone
// while the pod still runs to the destination's answer that it runs there, and puts them on
// one time line, the source's. What is done in them is for the shims and the daemons;
// docs/cutover.md says what each costs and why.
package cutover

import (
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// Stage is a part of the cutover.
type Stage string

// Stages in the order in which they begin. The pod runs in the first two. Dump and Images
// go on beside Pages.
const (
	// Ahead: the destination starts the restores, which then wait for their images.
	Ahead Stage = "ahead"
	// Prepare: runc and CRIU are started at the source, and wait; files are brought up to
	// date once more; the rounds' last work ends.
	Prepare Stage = "prepare"
	// Freeze: all processes of the pod are stopped.
	Freeze Stage = "freeze"
	// Compare: CRIU dumps everything by itself, only if that is asked for.
	Compare Stage = "compare"
	// Dump: CRIU writes its images, which are completed.
	Dump Stage = "dump"
	// Images: they are sent, and what is left of the files.
	Images Stage = "images"
	// Pages: what is dirty is sent.
	Pages Stage = "pages"
	// Flush: the destination has stored all that was sent, and says so.
	Flush Stage = "flush"
	// Seal: the destination sees that nothing is missing.
	Seal Stage = "seal"
	// Restore: CRIU makes the processes, up to where they would run.
	Restore Stage = "restore"
	// Decide: the destination is asked whether it still holds the pod, and the source's
	// shim decides.
	Decide Stage = "decide"
	// Resume: the destination lets the processes run. That runc then ends, and the answer's
	// way but for its last part, are not in it.
	Resume Stage = "resume"
)

// All are the stages, in order.
func All() []Stage {
	return []Stage{Ahead, Prepare, Freeze, Compare, Dump, Images, Pages, Flush, Seal, Restore, Decide, Resume}
}

// Times are when the source's daemon asked for something, or had its answer.
type Times struct {
	// Ahead is when the destination was asked to start its restores; zero if it was not.
	Ahead time.Time
	// CutOver is when the source's shim was asked, Restore when the destination was.
	CutOver, Restore time.Time
	// Held is when the destination had voted, Decided when the shim had decided, and
	// Resumed when the destination had let the pod run.
	Held, Decided, Resumed time.Time
}

// Stages are the stages that a cutover had, with the source's and the destination's own
// account of their parts.
func Stages(t Times, cut *shimv1.CutOverResponse, held *peerv1.RestoreResponse) []*nodev1.Stage {
	var all []*nodev1.Stage
	frozen := time.Unix(0, cut.GetFrozenUnixNano())
	add := func(s Stage, begin, end time.Duration) {
		all = append(all, &nodev1.Stage{Name: string(s), BeginUs: begin.Microseconds(), DurationUs: uint64(max(0, end-begin).Microseconds())})
	}
	us := func(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
	if !t.Ahead.IsZero() {
		add(Ahead, t.Ahead.Sub(frozen), t.CutOver.Sub(frozen))
	}
	add(Prepare, t.CutOver.Sub(frozen), 0)
	freeze, dump, pages, files := us(cut.GetFreezeUs()), us(cut.GetDumpUs()), us(cut.GetPagesUs()), us(cut.GetFilesUs())
	add(Freeze, 0, freeze)
	if compared := us(cut.GetCompareUs()); compared > 0 {
		add(Compare, freeze, compared)
		freeze = compared
	}
	add(Dump, freeze, dump)
	add(Images, dump, files)
	add(Pages, freeze, pages)
	add(Flush, max(pages, files), us(cut.GetTotalUs()))
	asked := t.Restore.Sub(frozen)
	sealed := asked + us(held.GetSealUs())
	add(Seal, asked, sealed)
	add(Restore, sealed, sealed+us(held.GetRestoreUs()))
	add(Decide, t.Held.Sub(frozen), t.Decided.Sub(frozen))
	add(Resume, t.Decided.Sub(frozen), t.Resumed.Sub(frozen))
	return all
}
