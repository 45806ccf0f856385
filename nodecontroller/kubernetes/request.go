package kubernetes

import (
	"strings"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// idOf is the id of an object's migration, for the nodes: the same whoever asks,
// and however often.
func idOf(m *v1alpha1.PodMigration) string { return "pm-" + string(m.UID) }

// requestOf is what a PodMigration asks of the source's daemon.
func requestOf(m *v1alpha1.PodMigration, sandbox, to string) *nodev1.MigrateRequest {
	s := &m.Spec
	r := &nodev1.MigrateRequest{
		Pod:         sandbox,
		To:          to,
		Mode:        strings.ToLower(string(s.Mode)),
		Tracker:     string(s.Tracker),
		Compression: strings.ToLower(string(s.Compression)),
		Priority:    s.Priority,
		CompareDump: s.CompareDump,
	}
	if s.Mode == v1alpha1.ModeCold || s.Mode == v1alpha1.ModePostCopy {
		r.Tracker = "" // the mode says it
	}
	if p := s.PreCopy; p != nil {
		r.MaxRounds = uint32(max(0, p.MaxRounds))
		if p.MaxDuration != nil {
			r.MaxTimeMs = uint64(max(0, p.MaxDuration.Milliseconds()))
		}
		r.Rule, r.OnStall = string(p.Rule), string(p.OnStall)
		if p.DowntimeLimit != nil {
			r.DowntimeLimitMs = uint64(max(0, p.DowntimeLimit.Milliseconds()))
		}
		if p.DirtyLimit != nil {
			r.DirtyLimit = uint64(max(0, p.DirtyLimit.Value()))
		}
	}
	if s.Timeout != nil {
		r.TimeoutMs = uint64(max(0, s.Timeout.Milliseconds()))
	}
	if s.Bandwidth != nil {
		r.Bandwidth = uint64(max(0, s.Bandwidth.Value()))
	}
	return r
}
