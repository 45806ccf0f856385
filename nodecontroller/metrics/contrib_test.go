package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// What is installed beside the daemon.
const (
	dashboardFile = "../../contrib/dashboards/godwit.json"
	rulesFile     = "../../contrib/alerts/godwit.rules.yaml"
)

// known are the names of the series that a daemon has.
func known(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	m := New("a", "v1", nil, func() State { return State{} })
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		m.registry.Describe(descs)
	}()
	name := regexp.MustCompile(`fqName: "([^"]+)"`)
	for d := range descs {
		n := name.FindStringSubmatch(d.String())[1]
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			names[n+suffix] = true
		}
	}
	return names
}

// expression is one of PromQL, and where it stands.
type expression struct{ where, text string }

func dashboard(t *testing.T) []expression {
	t.Helper()
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name string }
		}
	}
	read(t, dashboardFile, func(b []byte) error { return json.Unmarshal(b, &d) })
	var all []expression
	for _, p := range d.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("panel %s asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			all = append(all, expression{"panel " + p.Title, target.Expr})
		}
	}
	return all
}

func rules(t *testing.T) []expression {
	t.Helper()
	var f struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	read(t, rulesFile, func(b []byte) error { return yaml.Unmarshal(b, &f) })
	var all []expression
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s does not say what it is about, or what to do", r.Alert)
			}
			all = append(all, expression{"alert " + r.Alert, r.Expr})
		}
	}
	return all
}

func read(t *testing.T, file string, into func([]byte) error) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err == nil {
		err = into(b)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func TestDashboardAndAlertsAskForWhatThereIs(t *testing.T) {
	names := known(t)
	ours := regexp.MustCompile(`\b(godwit|process|go)_\w+`)
	used := map[string]bool{}
	for _, e := range append(dashboard(t), rules(t)...) {
		found := ours.FindAllString(e.text, -1)
		if len(found) == 0 {
			t.Errorf("%s asks for nothing of ours: %s", e.where, e.text)
		}
		for _, name := range found {
			used[name] = true
			if !names[name] {
				t.Errorf("%s: there is no %s", e.where, name)
			}
		}
	}
	if len(used) < 15 {
		t.Errorf("only %d series are used: %v", len(used), used)
	}
}

// TestPrometheusTakesAlertsAndDashboard has promtool, where there is one, parse the
// rules, and as rules the dashboard's expressions.
func TestPrometheusTakesAlertsAndDashboard(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool: make rules-check gets one")
	}
	check := func(file string) {
		t.Helper()
		if out, err := exec.Command(promtool, "check", "rules", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
	check(rulesFile)
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var all []rule
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$instance", ".*")
	for _, e := range dashboard(t) {
		// One name each: promtool takes rules that are the same for a mistake.
		all = append(all, rule{"panel:" + strings.Repeat("x", len(all)+1), variables.Replace(e.text)})
	}
	b, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": all}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	check(file)
	if out, err := exec.Command(promtool, "test", "rules", "testdata/alerts.yaml").CombinedOutput(); err != nil {
		t.Errorf("alerts do not fire when they should: %v\n%s", err, out)
	}
}
