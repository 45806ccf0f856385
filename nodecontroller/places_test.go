package nodecontroller

import "testing"

func TestOnePodLeavesForEachTwoProcessors(t *testing.T) {
	for processors, moves := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 6: 3, 64: 3} {
		if got := DefaultMoves(processors); got != moves {
			t.Errorf("%d processors: %d", processors, got)
		}
	}
}

func TestPlacesAreThoseOfTheConfiguration(t *testing.T) {
	for _, c := range []struct{ moves, cluster, want int }{{2, 0, 2}, {0, 3, 3}, {2, 3, 2}, {-1, 3, 0}} {
		config := Config{Moves: c.moves, Kubernetes: Kubernetes{Moves: c.cluster}}
		if got := config.Places(); got != c.want {
			t.Errorf("moves %d, kubernetes.moves %d: %d places, want %d", c.moves, c.cluster, got, c.want)
		}
	}
	if got := new(Config).Places(); got < 1 {
		t.Errorf("by default %d pods leave at a time", got)
	}
}

func TestRateIsReadAsLinksAreSold(t *testing.T) {
	for text, want := range map[string]Rate{"1gbit": 125e6, "200mbit": 25e6, "1.5Gbit": 187.5e6, "0": 0, "64 kbit": 8000} {
		var r Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%q is %d, %v; want %d", text, r, err, want)
		}
	}
	for _, text := range []string{"", "1", "gbit", "1gb", "-1gbit", "1bit", "nangbit", "1e30gbit", "1gbit/s"} {
		if err := new(Rate).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}
