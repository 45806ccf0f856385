package precopy

import (
	"time"

	"godwit.dev/godwit/pagestream"
)

// S0Inputs is what rule S0 decides by. Its M is the number of rounds of dirty pages
// that have ended, and N is how many of them are not judged.
type S0Inputs struct {
	M, N int
	// Dirty is the dirty amount of round M, and Preset the one that is small enough,
	// bytes.
	Dirty, Preset uint64
	// Initial is the initial prediction of the dirty rate of round M+1, Correction
	// what is taken off it, the weighted mean of the errors of the rounds before, and
	// Rate the prediction. Bytes a second.
	Initial, Correction, Rate float64
	// Took is the time that round M took, and Predicted the predicted dirty amount
	// of round M+1: Rate times Took, bytes.
	Took      time.Duration
	Predicted uint64
	// Elapsed is the total time of the rounds, with the first full copy, and
	// MaxTime the limit.
	Elapsed, MaxTime time.Duration
}

func s0Inputs(history []RoundStat, policy Policy) S0Inputs {
	last := history[len(history)-1]
	in := S0Inputs{
		M: last.Number, N: policy.firstRounds(), Dirty: last.Bytes(), Preset: policy.limit(history),
		Took: last.Duration(), Elapsed: elapsed(history), MaxTime: policy.maxTime(),
	}
	in.Initial, in.Correction, in.Rate = predictDirtyRate(dirtyRates(history))
	in.Predicted = uint64(in.Rate * in.Took.Seconds())
	return in
}

// decideByS0 is the rule of seed S0. After N rounds of dirty pages: if the dirty
// amount is below the preset one, what is dirty now is the last copy. If not, further
// rounds follow, and each ends them if the amount that is predicted for the next one
// exceeds its own, or if the total time exceeds the limit.
func decideByS0(in S0Inputs) Reason {
	switch {
	case in.M < in.N:
		return GoOn
	case in.M == in.N && in.Dirty < in.Preset:
		return BelowLimit
	case in.Predicted > in.Dirty:
		return NoProgress
	case in.Elapsed > in.MaxTime:
		return TimeSpent
	}
	return GoOn
}

// dirtyRates are the actual dirty rates of the rounds after the first full copy,
// bytes a second.
func dirtyRates(history []RoundStat) []float64 {
	var rates []float64
	for _, s := range history[1:] {
		rates = append(rates, s.DirtyRate())
	}
	return rates
}

// predictDirtyRate predicts the dirty rate of round M+1 from the actual ones of the
// rounds 1 to M. Its initial prediction is that of round M; it is corrected by the
// mean of the errors, prediction less actual rate, of all rounds before, in which
// round i weighs i: the later, the more. Of round 1 nothing is predicted, and its
// error is 0. A rate is never below 0.
func predictDirtyRate(actual []float64) (initial, correction, rate float64) {
	var errors, weights float64
	for i, a := range actual {
		if i > 0 {
			weight := float64(i + 1)
			errors += weight * (rate - a)
			weights += weight
		} else {
			weights = 1
		}
		initial, correction = a, errors/weights
		rate = max(0, initial-correction)
	}
	return initial, correction, rate
}

// pageBytes is the size of so many pages.
func pageBytes(pages uint64) uint64 { return pages * pagestream.PageSize }
