// Package metrics is what a node daemon tells Prometheus: how migrations ended,
// how long pods stood still and why, what was sent, and what is under way. It is
// told of migrations and asks for what is under way; it changes nothing, and knows
// of no daemon.
package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/cutover"
)

// State is what is under way on a node when somebody looks.
type State struct {
	// Migrations that the node has a part in and that have not ended.
	Migrations []*nodev1.Migration
	// Stores that are reserved for pods that arrive, and what they may take
	// together, bytes.
	Stores        int
	StoreReserved uint64
	// StoreLimit is what all stores may take, bytes; 0 means that there is no limit.
	StoreLimit uint64
}

// Metrics are those of one node.
type Metrics struct {
	registry *prometheus.Registry

	migrations *prometheus.CounterVec   // role, result, reason
	total      *prometheus.HistogramVec // result
	downtime   *prometheus.HistogramVec // mode
	part       *prometheus.HistogramVec // part
	stage      *prometheus.HistogramVec // stage
	phase      *prometheus.HistogramVec // phase
	rounds     prometheus.Histogram
	memorySent prometheus.Counter
	filesSent  prometheus.Counter
	wireSent   prometheus.Counter

	mu      sync.Mutex
	sources map[string]*source // migrations that leave this node, by id, guarded by mu
}

// source is what is remembered of a migration until its next event.
type source struct {
	phase nodev1.Phase
	since time.Time
	// What was counted so far, bytes.
	memory, files, wire uint64
}

// Buckets, in seconds: of what a client notices, and of what an operator waits for.
var (
	downtimeBuckets = []float64{.01, .025, .05, .1, .15, .2, .3, .5, .75, 1, 1.5, 2.5, 5, 10, 30, 60}
	partBuckets     = []float64{.001, .0025, .005, .01, .025, .05, .1, .2, .5, 1, 2.5, 5, 10, 30, 60}
	phaseBuckets    = []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}
	roundBuckets    = []float64{1, 2, 3, 5, 8, 13, 21, 34, 55, 89}
)

// parts are the names of the downtime's.
var parts = []string{"freeze", "dump", "pages", "files", "seal", "restore", "commit", "resume"}

// New are the metrics of a node. reasons are all that a migration may fail of, and
// state is asked at each scrape.
func New(node, version string, reasons []string, state func() State) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		migrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "godwit_migrations_total",
			Help: "Migrations that ended, by this node's role in them, how they ended, and of what.",
		}, []string{"role", "result", "reason"}),
		total: histograms("godwit_migration_seconds", "From the request to the end of a migration that left this node.", phaseBuckets, "result"),
		downtime: histograms("godwit_migration_downtime_seconds",
			"From the freeze of a pod that left this node to the destination's answer that it runs.", downtimeBuckets, "mode"),
		part: histograms("godwit_migration_downtime_part_seconds", "Parts of the downtime of pods that left this node; some overlap.", partBuckets, "part"),
		stage: histograms("godwit_migration_stage_seconds", "Stages of the cutovers of pods that left this node; the first two are before the freeze.",
			partBuckets, "stage"),
		phase: histograms("godwit_migration_phase_seconds", "How long migrations that left this node were in a phase.",
			phaseBuckets, "phase"),
		rounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "godwit_migration_rounds", Help: "Rounds of memory, the full copy included, of pods that left this node.", Buckets: roundBuckets,
		}),
		memorySent: counter("godwit_memory_sent_bytes_total", "Memory sent to other nodes, before compression, bytes."),
		filesSent:  counter("godwit_files_sent_bytes_total", "Contents of files sent to other nodes, before compression, bytes."),
		wireSent:   counter("godwit_wire_sent_bytes_total", "What memory took on the link to other nodes, bytes."),
		sources:    make(map[string]*source),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "godwit_node_info", Help: "1, for the labels: which node this is, and the version of its daemon.",
		ConstLabels: prometheus.Labels{"node": node, "version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.migrations, m.total, m.downtime, m.part, m.stage, m.phase, m.rounds, m.memorySent, m.filesSent, m.wireSent,
		info, underWay{state}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.begin(reasons)
	return m
}

// begin has everything counted from zero on: of what appears with its first
// count, Prometheus cannot tell that it has grown.
func (m *Metrics) begin(reasons []string) {
	for _, role := range []string{"source", "destination"} {
		m.migrations.WithLabelValues(role, "succeeded", "none")
		for _, reason := range reasons {
			m.migrations.WithLabelValues(role, "failed", reason)
			m.migrations.WithLabelValues(role, "unfinished", reason)
		}
		m.migrations.WithLabelValues(role, "cancelled", "cancelled")
	}
	for _, mode := range []string{"live", "cold"} {
		m.downtime.WithLabelValues(mode)
	}
	for _, part := range parts {
		m.part.WithLabelValues(part)
	}
	for _, stage := range cutover.All() {
		m.stage.WithLabelValues(string(stage))
	}
	for p := nodev1.Phase_PHASE_PENDING; p <= nodev1.Phase_PHASE_MIGRATION_COMPLETE; p++ {
		m.phase.WithLabelValues(name(p))
	}
	for _, p := range []nodev1.Phase{nodev1.Phase_PHASE_SUCCEEDED, nodev1.Phase_PHASE_FAILED, nodev1.Phase_PHASE_CANCELLED} {
		m.total.WithLabelValues(result(p))
	}
}

func histograms(name, help string, buckets []float64, label string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{label})
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// Event takes in an event of a migration that leaves this node.
func (m *Metrics) Event(e *nodev1.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := time.Unix(0, e.UnixNano)
	s := m.sources[e.Migration]
	if s == nil {
		s = &source{phase: e.Phase, since: at}
		m.sources[e.Migration] = s
	}
	if e.Phase != s.phase {
		m.phase.WithLabelValues(name(s.phase)).Observe(max(0, at.Sub(s.since).Seconds()))
		s.phase, s.since = e.Phase, at
	}
	add(m.memorySent, &s.memory, e.Progress.GetBytesSent())
	add(m.filesSent, &s.files, e.Progress.GetFileBytesSent())
	add(m.wireSent, &s.wire, e.Progress.GetWireBytesSent())
	if e.Result != nil {
		delete(m.sources, e.Migration)
		m.result(e)
	}
}

// add counts what a sum has grown by.
func add(c prometheus.Counter, before *uint64, now uint64) {
	if now > *before {
		c.Add(float64(now - *before))
		*before = now
	}
}

// result takes in a migration's figures.
func (m *Metrics) result(e *nodev1.Event) {
	r := e.Result
	m.total.WithLabelValues(result(e.Phase)).Observe(seconds(r.TotalUs))
	if n := len(r.Totals.GetRounds()); n > 0 {
		m.rounds.Observe(float64(n))
	}
	d := r.Downtime
	if d == nil {
		return
	}
	m.downtime.WithLabelValues(r.Mode).Observe(seconds(d.MeasuredUs))
	for i, us := range []uint64{d.FreezeUs, d.DumpUs, d.PagesUs, d.FilesUs, d.SealUs, d.RestoreUs, d.CommitUs, d.ResumeUs} {
		m.part.WithLabelValues(parts[i]).Observe(seconds(us))
	}
	for _, s := range d.Stages {
		m.stage.WithLabelValues(s.Name).Observe(seconds(s.DurationUs))
	}
}

func seconds(us uint64) float64 { return float64(us) / 1e6 }

// Ended takes in the end of a migration, and of what it ended.
func (m *Metrics) Ended(ended *nodev1.Migration, reason string) {
	m.migrations.WithLabelValues(ended.Role, result(ended.Phase), reason).Inc()
}
