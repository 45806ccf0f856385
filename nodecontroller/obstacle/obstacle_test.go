package obstacle

import (
	"errors"
	"testing"
)

func TestAllRefusalsAreOneMessage(t *testing.T) {
	for _, c := range []struct {
		name     string
		node     string
		findings []Finding
		want     string
	}{
		{"nothing found", "b", nil, ""},
		{"warnings only", "b", []Finding{Warn("a connection is closed")}, ""},
		{"one", "b", []Finding{Refuse("container %s has a terminal", "web")}, "pod default/x cannot be moved to node b: container web has a terminal"},
		{"no node chosen yet", "", []Finding{Refuse("it ends")}, "pod default/x cannot be moved: it ends"},
		{"several, and a warning", "b", []Finding{Refuse("one"), Warn("beside"), Refuse("two")}, "pod default/x cannot be moved to node b: (1) one; (2) two"},
	} {
		err := Error("default/x", c.node, c.findings)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || err.Error() != c.want):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		case err != nil && !errors.Is(err, ErrRefused):
			t.Errorf("%s: the error does not wrap ErrRefused", c.name)
		}
	}
}

func TestFindingsAreToldApartAndKeepTheirOrder(t *testing.T) {
	findings := []Finding{Warn("a"), Refuse("b"), Warn("c")}
	if w := Warnings(findings); len(w) != 2 || w[0].Text != "a" || w[1].Text != "c" {
		t.Errorf("warnings %v", w)
	}
	if r := Refusals(findings); len(r) != 1 || r[0].Text != "b" || r[0].Severity.String() != "refusal" {
		t.Errorf("refusals %v", r)
	}
	if len(findings) != 3 || findings[0].Text != "a" {
		t.Error("the findings that were given have changed")
	}
}
