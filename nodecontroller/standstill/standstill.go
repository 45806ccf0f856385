// Package standstill remembers what freezes of pods have cost beside the last copy of their
// memory, and tells from that what the next one will: freeze, dump and restore depend on the
// pod and on the two nodes, and hardly on its memory. What that is for is for others to know.
package standstill

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
)

// FileName is the file's in a daemon's state directory.
const FileName = "standstill.json"

// kept is how many moves are remembered, the newest.
const kept = 64

// longest is how long a part can have taken: what says more is no memory of ours.
const longest = time.Hour

// Move is a move of a pod away from this node: what it was like, and what it cost.
type Move struct {
	Pod  string `json:"pod"`  // namespace/name
	Peer string `json:"peer"` // the node that it went to
	// Containers of the pod.
	Containers int `json:"containers"`
	// Late: its new pod was made after the commit.
	Late bool `json:"late,omitempty"`
	// Cost is in nanoseconds.
	Cost precopy.Standstill `json:"cost"`
}

func (m Move) valid() bool {
	for _, d := range []time.Duration{m.Cost.Freeze, m.Cost.Dump, m.Cost.Restore} {
		if d < 0 || d > longest {
			return false
		}
	}
	return m.Containers > 0 && m.Cost != (precopy.Standstill{})
}

// Memory is what a node remembers.
type Memory struct {
	path string

	mu    sync.Mutex
	moves []Move // the oldest first, guarded by mu
}

// errForeign: there is something else in the file.
var errForeign = errors.New("it is not what a daemon has written")

// Open reads what an earlier daemon has learned. A file that cannot be read is as good as
// none, and written anew after the next move.
func Open(path string, log *slog.Logger) *Memory {
	m := &Memory{path: path}
	moves, err := load(path)
	if err != nil {
		log.Warn("what freezes of pods have cost is learned anew", "error", err)
	}
	m.moves = moves
	return m
}

func load(path string) ([]Move, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remembered moves: %w", err)
	}
	var moves []Move
	if err := json.Unmarshal(raw, &moves); err != nil {
		return nil, fmt.Errorf("remembered moves %s: %w", path, err)
	}
	if slices.ContainsFunc(moves, func(m Move) bool { return !m.valid() }) {
		return nil, fmt.Errorf("remembered moves %s: %w", path, errForeign)
	}
	return moves[max(0, len(moves)-kept):], nil
}

// Note remembers a move. One that nothing was measured of is not remembered.
func (m *Memory) Note(move Move) error {
	if !move.valid() {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moves = append(m.moves, move)
	m.moves = slices.Clone(m.moves[max(0, len(m.moves)-kept):])
	raw, err := json.Marshal(m.moves)
	if err != nil {
		return fmt.Errorf("remember a move: %w", err)
	}
	part := filepath.Join(filepath.Dir(m.path), "."+filepath.Base(m.path))
	if err := os.WriteFile(part, raw, 0o600); err != nil {
		return fmt.Errorf("remember a move: %w", err)
	}
	if err := os.Rename(part, m.path); err != nil {
		os.Remove(part)
		return fmt.Errorf("remember a move: %w", err)
	}
	return nil
}

// Expect is what a move like this one is expected to cost; its own Cost does not count.
// Without a move to judge by it is zero.
func (m *Memory) Expect(like Move) precopy.Standstill {
	m.mu.Lock()
	defer m.mu.Unlock()
	return expect(m.moves, like)
}

// A move counts the more, the more it is like the one that is to be foreseen, and a little
// less with each that came after it.
const (
	samePod        = 8
	samePeer       = 2
	sameContainers = 4
	fading         = 0.9
)

// weight is how much the move counts that was age moves ago.
func weight(m, like Move, age int) float64 {
	if m.Late != like.Late {
		return 0 // it was kubelet's time
	}
	w := math.Pow(fading, float64(age))
	if m.Pod == like.Pod {
		w *= samePod
	}
	if m.Peer == like.Peer {
		w *= samePeer
	}
	if m.Containers == like.Containers {
		w *= sameContainers
	}
	return w
}

// expect takes the weighted median of each part: a move that something happened to says
// nothing of the next.
func expect(moves []Move, like Move) precopy.Standstill {
	weights := make([]float64, len(moves))
	for i, m := range moves {
		weights[i] = weight(m, like, len(moves)-1-i)
	}
	part := func(of func(precopy.Standstill) time.Duration) time.Duration {
		values := make([]time.Duration, len(moves))
		for i, m := range moves {
			values[i] = of(m.Cost)
		}
		return median(values, weights)
	}
	return precopy.Standstill{
		Freeze:  part(func(s precopy.Standstill) time.Duration { return s.Freeze }),
		Dump:    part(func(s precopy.Standstill) time.Duration { return s.Dump }),
		Restore: part(func(s precopy.Standstill) time.Duration { return s.Restore }),
	}
}

// median is the least value that half of the weight does not exceed; 0 without any weight.
func median(values []time.Duration, weights []float64) time.Duration {
	order := make([]int, 0, len(values))
	var all float64
	for i, w := range weights {
		if w > 0 {
			order = append(order, i)
			all += w
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(values[a], values[b]) })
	var sum float64
	for _, i := range order {
		if sum += weights[i]; sum >= all/2 {
			return values[i]
		}
	}
	return 0
}
