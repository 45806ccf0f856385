package precopy

import (
	"context"
	"fmt"
	"time"
)

// Leave is Final for a destination that fetches what is missing later: it finds what is
// dirty while the processes are frozen, and copies nothing of it. Without a Run before it,
// that is everything. The memories it returns hold no page that Run has brought as it is
// now; their ranges ascend.
func (r *Rounds) Leave(ctx context.Context) ([]Memory, FinalStat, error) {
	if err := r.enter(Final); err != nil {
		return nil, FinalStat{}, err
	}
	began := time.Now()
	found, err := r.config.Tracker.CollectFrozen(ctx)
	if err != nil {
		return nil, FinalStat{}, r.fail(fmt.Errorf("collect dirty pages: %w", err))
	}
	memories := memoriesOf(found)
	stat := FinalStat{Scan: time.Since(began)}
	for i := range memories {
		memories[i].Ranges = ascending(memories[i].Ranges)
		stat.Pages += pagesOf(memories[i].Ranges)
	}
	return memories, stat, r.enter(Done)
}

// LeavesRest says whether the rest is to be left at the source, as the rounds ended in vain.
func (d Decision) LeavesRest(policy Policy) bool { return policy.OnStall == PostCopy && d.Stalled() }
