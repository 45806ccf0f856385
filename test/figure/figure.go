// Package figure judges what benches measured: each figure has a bound that was promised, or is only told. Measuring is the
// benches' own.
package figure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// Figure is one thing that was measured.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Limit is what Value may be at most, or at least if AtLeast.
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least,omitempty"`
	// Unpromised: nothing was promised of it, and Limit means nothing.
	Unpromised bool `json:"unpromised,omitempty"`
}

// Kept says whether the promise is kept, if there was one.
func (f Figure) Kept() bool {
	switch {
	case f.Unpromised:
		return true
	case f.AtLeast:
		return f.Value >= f.Limit
	}
	return f.Value <= f.Limit
}

// ErrMissed ends a bench of which a figure was not reached.
var ErrMissed = errors.New("figures were missed, see the table")

// Judge returns ErrMissed if one of the figures was.
func Judge(figures []Figure) error {
	if slices.ContainsFunc(figures, func(f Figure) bool { return !f.Kept() }) {
		return ErrMissed
	}
	return nil
}

// Print prints a table.
func Print(w io.Writer, figures []Figure) {
	fmt.Fprintf(w, "\n%-60s %12s %16s\n", "", "measured", "promised")
	for _, f := range figures {
		bound, verdict := f.bound()
		fmt.Fprintf(w, "%-60s %12s %16s  %s\n", f.Name, fmt.Sprintf("%.3g %s", f.Value, f.Unit), bound, verdict)
	}
}

// bound writes what was promised, and what has become of it.
func (f Figure) bound() (bound, verdict string) {
	if f.Unpromised {
		return "nothing", ""
	}
	bound, verdict = fmt.Sprintf("at most %.3g", f.Limit), "PASS"
	if f.AtLeast {
		bound = fmt.Sprintf("at least %.3g", f.Limit)
	}
	if !f.Kept() {
		verdict = "MISSED"
	}
	return bound, verdict
}

// WriteReport writes a report as JSON; the directory is made.
func WriteReport(path string, report any) error {
	b, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
