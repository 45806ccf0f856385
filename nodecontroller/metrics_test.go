package nodecontroller

import (
	"errors"
	"io"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// scrape asks the node's daemon as Prometheus does.
func (n *testNode) scrape(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	r, err := http.Get("http://" + n.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// ended counts migrations by what a scrape says of their end.
func ended(families map[string]*dto.MetricFamily) map[string]float64 {
	ends := map[string]float64{}
	for _, m := range families["godwit_migrations_total"].GetMetric() {
		label := map[string]string{}
		for _, l := range m.Label {
			label[l.GetName()] = l.GetValue()
		}
		if m.Counter.GetValue() == 0 {
			continue
		}
		ends[label["role"]+" "+label["result"]+" "+label["reason"]] = m.Counter.GetValue()
	}
	return ends
}

// counted is how often something was observed, under all labels.
func counted(f *dto.MetricFamily) uint64 {
	var n uint64
	for _, m := range f.GetMetric() {
		n += m.Histogram.GetSampleCount()
	}
	return n
}

func TestMetricsTellOfBothSidesOfAMove(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	var during map[string]*dto.MetricFamily
	c.fault = &fault{call: "source.CutOver", do: func(c *testCluster) error {
		during = c.b.scrape(t)
		return nil
	}}
	if _, err := c.migrate(modeLive); err != nil {
		t.Fatal(err)
	}
	c.settled()
	a, b := c.a.scrape(t), c.b.scrape(t)
	if got := ended(a); len(got) != 1 || got["source succeeded none"] != 1 {
		t.Errorf("ends on a: %v", got)
	}
	if got := ended(b); len(got) != 1 || got["destination succeeded none"] != 1 {
		t.Errorf("ends on b: %v", got)
	}
	if n := counted(a["godwit_migration_downtime_seconds"]); n != 1 {
		t.Errorf("%d downtimes", n)
	}
	if n := counted(a["godwit_migration_phase_seconds"]); n != 5 {
		t.Errorf("%d phases, want all five before the last", n)
	}
	if during["godwit_migrations_active"] == nil || during["godwit_stores"].GetMetric()[0].Gauge.GetValue() != 1 {
		t.Errorf("while it moved: %v, %v", during["godwit_migrations_active"], during["godwit_stores"])
	}
	if b["godwit_migrations_active"] != nil || b["godwit_stores"].GetMetric()[0].Gauge.GetValue() != 0 {
		t.Errorf("after it: %v, %v", b["godwit_migrations_active"], b["godwit_stores"])
	}
}

func TestMetricsSayOfWhatAMoveFailed(t *testing.T) {
	c := newTestCluster(t)
	c.a.run()
	c.fault = &fault{call: "destination.Restore", do: func(*testCluster) error { return errors.New("broken by the test") }}
	if last, err := c.migrate(modeLive); err != nil || last.Phase != nodev1.Phase_PHASE_FAILED {
		t.Fatal(last, err)
	}
	c.settled()
	if got := ended(c.a.scrape(t)); len(got) != 1 || got["source failed other"] != 1 {
		t.Errorf("ends on a: %v", got)
	}
	r, err := http.Get("http://" + c.a.metrics + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusOK || string(body) != "ok\n" {
		t.Errorf("healthz: %s %s", r.Status, body)
	}
}
