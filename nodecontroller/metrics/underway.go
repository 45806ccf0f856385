package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// Of what is under way there are gauges, which are gone when it is over.
var (
	active = prometheus.NewDesc("godwit_migrations_active",
		"Migrations under way, by this node's role in them and by phase.", []string{"role", "phase"}, nil)
	inDoubt = prometheus.NewDesc("godwit_migrations_in_doubt",
		"Pods that this node holds without knowing whether their source committed: see godwitctl resolve.", nil, nil)
	stores        = prometheus.NewDesc("godwit_stores", "Stores for pods that arrive.", nil, nil)
	storeReserved = prometheus.NewDesc("godwit_store_reserved_bytes", "What the stores of pods that arrive may take together, bytes.", nil, nil)
	storeLimit    = prometheus.NewDesc("godwit_store_limit_bytes", "What all stores may take, store_limit, bytes; missing without a limit.", nil, nil)

	memory   = ofMigration("godwit_migration_memory_bytes", "Memory of a pod under way, bytes.")
	round    = ofMigration("godwit_migration_round", "Round of memory that a pod under way is in; 0 is the full copy.")
	rate     = ofMigration("godwit_migration_rate_bytes_per_second", "How fast the memory of a pod under way is sent.")
	throttle = ofMigration("godwit_migration_throttle_ratio",
		"What is left of its processors to a pod under way that writes too fast, as a share; missing for one that is not held back.")
	dirty = ofMigration("godwit_migration_dirty_rate_bytes_per_second", "How fast a pod under way writes to its memory.")
)

// ofMigration is a gauge of one migration that leaves this node.
func ofMigration(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"migration", "pod", "to"}, nil)
}

// underWay collects what is under way when somebody looks.
type underWay struct{ state func() State }

// Describe is prometheus.Collector's.
func (underWay) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{active, inDoubt, stores, storeReserved, storeLimit, memory, round, rate, dirty, throttle} {
		to <- d
	}
}

// Collect is prometheus.Collector's.
func (u underWay) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := u.state()
	gauge(stores, float64(s.Stores))
	gauge(storeReserved, float64(s.StoreReserved))
	if s.StoreLimit > 0 {
		gauge(storeLimit, float64(s.StoreLimit))
	}
	type key struct{ role, phase string }
	count := map[key]int{}
	doubtful := 0
	for _, m := range s.Migrations {
		count[key{m.Role, name(m.Phase)}]++
		if m.InDoubt {
			doubtful++
		}
		p := m.Progress
		if p == nil {
			continue
		}
		gauge(memory, float64(p.MemoryBytes), m.Id, m.Pod, m.To)
		gauge(round, float64(p.Round), m.Id, m.Pod, m.To)
		gauge(rate, float64(p.Rate), m.Id, m.Pod, m.To)
		gauge(dirty, float64(p.DirtyRate), m.Id, m.Pod, m.To)
		if of := p.ThrottleOfMilliCpu; of > 0 {
			gauge(throttle, float64(p.ThrottleMilliCpu)/float64(of), m.Id, m.Pod, m.To)
		}
	}
	gauge(inDoubt, float64(doubtful))
	for k, n := range count {
		gauge(active, float64(n), k.role, k.phase)
	}
}

// name is a phase as it is called everywhere: MigrationComplete.
func name(p nodev1.Phase) string {
	var b strings.Builder
	for word := range strings.SplitSeq(strings.TrimPrefix(p.String(), "PHASE_"), "_") {
		b.WriteString(word[:1] + strings.ToLower(word[1:]))
	}
	return b.String()
}

// result is how a migration ended that ended in a phase. Unfinished is one that
// is left to the next daemon, or whose pod runs at the destination while something
// of it could not be cleared away.
func result(p nodev1.Phase) string {
	switch p {
	case nodev1.Phase_PHASE_SUCCEEDED:
		return "succeeded"
	case nodev1.Phase_PHASE_FAILED:
		return "failed"
	case nodev1.Phase_PHASE_CANCELLED:
		return "cancelled"
	}
	return "unfinished"
}
