package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// scrape reads the metrics as Prometheus does.
func scrape(t *testing.T, m *Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// value is the one value with the labels, "role=source,result=failed"; a
// histogram's is its sum. Without such a value it is -1.
func value(families map[string]*dto.MetricFamily, name, labels string) float64 {
	for _, m := range families[name].GetMetric() {
		var have []string
		for _, l := range m.Label {
			have = append(have, l.GetName()+"="+l.GetValue())
		}
		if strings.Join(have, ",") != labels {
			continue
		}
		switch {
		case m.Counter != nil:
			return m.Counter.GetValue()
		case m.Gauge != nil:
			return m.Gauge.GetValue()
		case m.Histogram != nil:
			return m.Histogram.GetSampleSum()
		}
	}
	return -1
}

func at(d time.Duration) int64 { return time.Unix(1000, 0).Add(d).UnixNano() }

func progress(memory, files, wire uint64) *nodev1.Progress {
	return &nodev1.Progress{BytesSent: memory, FileBytesSent: files, WireBytesSent: wire, Rounds: []*nodev1.Round{{}, {Number: 1}}}
}

func TestAMigrationIsCountedOnceInAllItsFigures(t *testing.T) {
	m := New("a", "v1", []string{"no_room", "timeout"}, func() State { return State{} })
	for _, e := range []*nodev1.Event{
		{Kind: "accepted", Phase: nodev1.Phase_PHASE_PENDING, UnixNano: at(0)},
		{Kind: "preparing", Phase: nodev1.Phase_PHASE_PREPARING, UnixNano: at(time.Second)},
		{Kind: "started", Phase: nodev1.Phase_PHASE_STARTED, UnixNano: at(3 * time.Second)},
		{Kind: "tracking", Phase: nodev1.Phase_PHASE_MIGRATING, UnixNano: at(4 * time.Second)},
		{Kind: "progress", Phase: nodev1.Phase_PHASE_MIGRATING, UnixNano: at(5 * time.Second), Progress: progress(100, 7, 60)},
		{Kind: "progress", Phase: nodev1.Phase_PHASE_MIGRATING, UnixNano: at(6 * time.Second), Progress: progress(150, 7, 90)},
		{Kind: "committed", Phase: nodev1.Phase_PHASE_MIGRATION_COMPLETE, UnixNano: at(9 * time.Second), Progress: progress(160, 8, 99)},
		{Kind: "ended", Phase: nodev1.Phase_PHASE_SUCCEEDED, UnixNano: at(10 * time.Second), Progress: progress(160, 8, 99), Result: &nodev1.Result{
			Succeeded: true, Mode: "live", TotalUs: 10e6, Totals: progress(160, 8, 99),
			Downtime: &nodev1.Downtime{MeasuredUs: 250e3, DumpUs: 100e3, RestoreUs: 50e3,
				Stages: []*nodev1.Stage{{Name: "dump", BeginUs: 1e3, DurationUs: 40e3}}},
		}},
	} {
		e.Migration = "m-1"
		m.Event(e)
	}
	m.Ended(&nodev1.Migration{Id: "m-1", Role: "source", Phase: nodev1.Phase_PHASE_SUCCEEDED}, "none")
	m.Ended(&nodev1.Migration{Id: "m-2", Role: "destination", Phase: nodev1.Phase_PHASE_FAILED}, "no_room")

	f := scrape(t, m)
	for _, c := range []struct {
		name, labels string
		want         float64
	}{
		{"godwit_migrations_total", "reason=none,result=succeeded,role=source", 1},
		{"godwit_migrations_total", "reason=no_room,result=failed,role=destination", 1},
		{"godwit_migrations_total", "reason=timeout,result=failed,role=source", 0},
		{"godwit_migration_seconds", "result=failed", 0},
		{"godwit_migration_downtime_seconds", "mode=cold", 0},
		{"godwit_memory_sent_bytes_total", "", 160},
		{"godwit_files_sent_bytes_total", "", 8},
		{"godwit_wire_sent_bytes_total", "", 99},
		{"godwit_migration_seconds", "result=succeeded", 10},
		{"godwit_migration_downtime_seconds", "mode=live", 0.25},
		{"godwit_migration_downtime_part_seconds", "part=dump", 0.1},
		{"godwit_migration_downtime_part_seconds", "part=restore", 0.05},
		{"godwit_migration_stage_seconds", "stage=dump", 0.04},
		{"godwit_migration_phase_seconds", "phase=Pending", 1},
		{"godwit_migration_phase_seconds", "phase=Preparing", 2},
		{"godwit_migration_phase_seconds", "phase=Migrating", 5},
		{"godwit_migration_phase_seconds", "phase=MigrationComplete", 1},
		{"godwit_migration_rounds", "", 2},
		{"godwit_node_info", "node=a,version=v1", 1},
	} {
		if got := value(f, c.name, c.labels); got != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if len(m.sources) > 0 {
		t.Errorf("remembered after its end: %v", m.sources)
	}
}

func TestWhatIsUnderWayIsGoneWhenItIsOver(t *testing.T) {
	state := State{
		Stores: 1, StoreReserved: 512, StoreLimit: 1024,
		Migrations: []*nodev1.Migration{
			{Id: "m-1", Role: "source", Pod: "ns/p", To: "b", Phase: nodev1.Phase_PHASE_MIGRATING, Progress: &nodev1.Progress{MemoryBytes: 9, Round: 2, Rate: 7, DirtyRate: 5, ThrottleMilliCpu: 500, ThrottleOfMilliCpu: 2000}},
			{Id: "m-2", Role: "destination", Pod: "ns/q", To: "a", Phase: nodev1.Phase_PHASE_MIGRATING, InDoubt: true},
		},
	}
	m := New("a", "v1", nil, func() State { return state })
	f := scrape(t, m)
	const labels = "migration=m-1,pod=ns/p,to=b"
	for _, c := range []struct {
		name, labels string
		want         float64
	}{
		{"godwit_migrations_active", "phase=Migrating,role=source", 1},
		{"godwit_migrations_active", "phase=Migrating,role=destination", 1},
		{"godwit_migrations_in_doubt", "", 1},
		{"godwit_stores", "", 1},
		{"godwit_store_reserved_bytes", "", 512},
		{"godwit_store_limit_bytes", "", 1024},
		{"godwit_migration_memory_bytes", labels, 9},
		{"godwit_migration_round", labels, 2},
		{"godwit_migration_rate_bytes_per_second", labels, 7},
		{"godwit_migration_dirty_rate_bytes_per_second", labels, 5},
		{"godwit_migration_throttle_ratio", labels, 0.25},
	} {
		if got := value(f, c.name, c.labels); got != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	state = State{}
	f = scrape(t, m)
	for _, gone := range []string{"godwit_migrations_active", "godwit_migration_round", "godwit_migration_rate_bytes_per_second", "godwit_store_limit_bytes"} {
		if f[gone] != nil {
			t.Errorf("%s is still there: %v", gone, f[gone])
		}
	}
	if got := value(f, "godwit_migrations_in_doubt", ""); got != 0 {
		t.Errorf("in doubt: %v", got)
	}
}

func TestPhasesAreCalledAsEverywhere(t *testing.T) {
	for p, want := range map[nodev1.Phase]string{nodev1.Phase_PHASE_PENDING: "Pending", nodev1.Phase_PHASE_MIGRATION_COMPLETE: "MigrationComplete"} {
		if got := name(p); got != want {
			t.Errorf("%v is %s, want %s", p, got, want)
		}
	}
}
