package kubernetes

import "testing"

func TestOnePodLeavesForEachTwoProcessors(t *testing.T) {
	for processors, moves := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 6: 3, 64: 3} {
		if got := DefaultMoves(processors); got != moves {
			t.Errorf("%d processors: %d", processors, got)
		}
	}
}
