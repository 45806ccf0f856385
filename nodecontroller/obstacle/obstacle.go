// Package obstacle is what a preflight finds in the way of a move: findings, each
// one sentence, and all of them as one message. What is looked at, and judged, is
// in processcheck and podcheck.
package obstacle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrRefused is wrapped by the error of Refusal.
var ErrRefused = errors.New("the pod cannot be moved")

// Severity is how much a finding weighs.
type Severity int

const (
	// Warning: the pod can be moved, but something of it does not come along or
	// may make the move fail.
	Warning Severity = iota
	// Refusal: the move would fail, or go wrong.
	Refusal
)

func (s Severity) String() string {
	if s == Refusal {
		return "refusal"
	}
	return "warning"
}

// Finding is one thing that is in the way.
type Finding struct {
	Severity Severity
	// Text is a sentence that names the thing, says why it is in the way and what
	// to do about it; it begins small and has no full stop.
	Text string
}

// Refuse is a finding that keeps the pod from being moved.
func Refuse(format string, args ...any) Finding {
	return Finding{Severity: Refusal, Text: fmt.Sprintf(format, args...)}
}

// Warn is a finding that the mover should know of.
func Warn(format string, args ...any) Finding {
	return Finding{Severity: Warning, Text: fmt.Sprintf(format, args...)}
}

// Refusals are the findings that keep the pod from being moved.
func Refusals(findings []Finding) []Finding { return of(Refusal, findings) }

// Warnings are the others.
func Warnings(findings []Finding) []Finding { return of(Warning, findings) }

func of(s Severity, findings []Finding) []Finding {
	return slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Severity != s })
}

// List is all findings in one line, numbered if there are several.
func List(findings []Finding) string {
	if len(findings) == 1 {
		return findings[0].Text
	}
	texts := make([]string, len(findings))
	for i, f := range findings {
		texts[i] = fmt.Sprintf("(%d) %s", i+1, f.Text)
	}
	return strings.Join(texts, "; ")
}

// Error is one error for all refusals among the findings, nil if there are none.
// It wraps ErrRefused. The pod is named as namespace/name; node may be empty.
func Error(pod, node string, findings []Finding) error {
	refusals := Refusals(findings)
	if len(refusals) == 0 {
		return nil
	}
	return &refused{pod: pod, node: node, refusals: refusals}
}

// refused is the error of findings.
type refused struct {
	pod, node string
	refusals  []Finding
}

func (e *refused) Error() string {
	to := ""
	if e.node != "" {
		to = " to node " + e.node
	}
	return fmt.Sprintf("pod %s cannot be moved%s: %s", e.pod, to, List(e.refusals))
}

func (e *refused) Unwrap() error { return ErrRefused }
