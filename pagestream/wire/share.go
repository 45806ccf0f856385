package wire

import (
	"sync"
	"time"
)

// shareFresh is how long what got through of a stream counts as its part of what the link takes.
const shareFresh = 500 * time.Millisecond

// shares is what gets through of each of a session's streams. They divide the link by what each of them wants, so that
// one that sends little, for want of processors, sees little of it and leaves the rest to the others: what it could
// have is told by all of them together. Several goroutines may use it; a nil one knows one stream only.
type shares struct {
	mu      sync.Mutex // guards what follows
	through []float64  // bytes a second, by stream
	at      []time.Time
}

func newShares(streams int) *shares {
	return &shares{through: make([]float64, streams), at: make([]time.Time, streams)}
}

// note takes what got through of a stream and returns what it could have had: an equal part, or what it had, if that is more.
func (s *shares) note(stream int, through float64, now time.Time) float64 {
	if s == nil {
		return through
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.through[stream], s.at[stream] = through, now
	sum, active := 0.0, 0
	for i, at := range s.at {
		if now.Sub(at) < shareFresh {
			sum += s.through[i]
			active++
		}
	}
	return max(through, sum/float64(active))
}
