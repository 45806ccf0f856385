package shim

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/shim/cpuquota"
)

// errReleased: the pod runs at full speed again, for good.
var errReleased = errors.New("the pod is not held back any more")

// brake holds a pod back by the processor quotas of its containers, which are put back when
// it is released. The pod's own control group above them is kubelet's.
type brake struct {
	log *slog.Logger

	mu       sync.Mutex
	parts    []*brakePart // guarded by mu
	released bool         // guarded by mu
}

// brakePart is one container.
type brakePart struct {
	id    string
	group *cpuquota.Group
	hold  *cpuquota.Hold
	// of is what it might use if it were not held back, cores.
	of   float64
	used time.Duration // in all, when it was last measured
	at   time.Time     // when that was
}

// throttleRecord is where it is written down what a container's quota was.
func throttleRecord(bundle string) string { return filepath.Join(bundle, "godwit", "throttle.json") }

// newBrake finds the quotas of all containers; nothing is changed yet.
func newBrake(containers []*departure, log *slog.Logger) (*brake, error) {
	b := &brake{log: log}
	for _, c := range containers {
		group, err := cpuquota.Open(c.pid)
		if err != nil {
			return nil, fmt.Errorf("container %s cannot be throttled: %w", c.id, err)
		}
		p, err := newBrakePart(c.id, group, throttleRecord(c.bundle))
		if err != nil {
			return nil, fmt.Errorf("container %s cannot be throttled: %w", c.id, err)
		}
		b.parts = append(b.parts, p)
	}
	return b, nil
}

func newBrakePart(id string, group *cpuquota.Group, record string) (*brakePart, error) {
	// An earlier migration may have failed to.
	if err := cpuquota.PutBack(record); err != nil && !errors.Is(err, cpuquota.ErrForeign) {
		return nil, err
	}
	p := &brakePart{id: id, group: group, hold: cpuquota.NewHold(group, record), of: float64(runtime.NumCPU()), at: time.Now()}
	cores, _, err := p.hold.Limit()
	if err != nil {
		return nil, err
	}
	if cores > 0 {
		p.of = min(p.of, cores)
	}
	p.used, err = group.Used()
	return p, err
}

// openBrake makes the brake of a source that may need it.
func (s *source) openBrake() error {
	policy, err := policyOf(s.request.GetPolicy())
	if err != nil || policy.OnStall != precopy.SlowDown {
		return err
	}
	s.brake, err = newBrake(s.containers, s.log)
	return err
}

// Measure is precopy.Brake's.
func (b *brake) Measure() ([]precopy.CPU, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	cpus := make([]precopy.CPU, len(b.parts))
	for i, p := range b.parts {
		cores, foreign, err := p.hold.Limit()
		if err != nil {
			return nil, err
		}
		used, err := p.group.Used()
		if err != nil {
			return nil, err
		}
		now := time.Now()
		cpus[i] = precopy.CPU{Limit: cores, Foreign: foreign}
		if passed := now.Sub(p.at); passed > 0 {
			cpus[i].Used = (used - p.used).Seconds() / passed.Seconds()
		}
		p.used, p.at = used, now
	}
	return cpus, nil
}

// Hold is precopy.Brake's.
func (b *brake) Hold(cores []float64) (precopy.Throttle, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.released {
		return precopy.Throttle{}, errReleased
	}
	for i, p := range b.parts {
		if cores[i] == 0 {
			continue
		}
		err := p.hold.Lower(cores[i])
		if errors.Is(err, cpuquota.ErrForeign) {
			continue // the next measurement tells
		}
		if err != nil {
			return precopy.Throttle{}, fmt.Errorf("container %s: %w", p.id, err)
		}
	}
	return b.throttle()
}

// throttle is what the containers that are held back have now, no more than the node.
// What others use does not count: it is not known what they might. Callers hold mu.
func (b *brake) throttle() (precopy.Throttle, error) {
	var t precopy.Throttle
	for _, p := range b.parts {
		cores, _, err := p.hold.Limit()
		if err != nil {
			return t, err
		}
		if !p.hold.Lowered() {
			continue
		}
		t.Cores += min(cores, p.of)
		t.Of += p.of
	}
	all := float64(runtime.NumCPU())
	t.Cores, t.Of = min(t.Cores, all), min(t.Of, all)
	return t, nil
}

// release puts all quotas back. From then on the pod cannot be held back again.
func (b *brake) release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	for _, p := range b.parts {
		switch err := p.hold.Release(); {
		case errors.Is(err, cpuquota.ErrForeign):
			b.log.Info("the container keeps the quota that somebody else has given it", "container", p.id, "error", err)
		case err != nil:
			b.log.Error("the container's quota is not as it was", "container", p.id, "error", err)
		}
	}
}
