// Package events says which of the things that happen in a migration a cluster's
// users are told of as Kubernetes Events, and in which words. Who records them, and
// on which objects, is the controller's.
package events

import (
	"fmt"
	"path"
	"time"

	"github.com/docker/go-units"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
)

// The types of Events.
const (
	Normal  = "Normal"
	Warning = "Warning"
)

// Event is what to record.
type Event struct {
	// Type is Normal or Warning.
	Type string
	// Reason is one word in CamelCase.
	Reason string
	// Message is for people.
	Message string
}

// reasons are the kinds of a daemon's events that are told of; their messages are
// the daemon's.
var reasons = map[string]Event{
	"accepted":   {Normal, "Accepted", ""},
	"waiting":    {Normal, "Waiting", ""},
	"queued":     {Normal, "Queued", ""},
	"preparing":  {Normal, "Preparing", ""},
	"prepared":   {Normal, "Prepared", ""},
	"created":    {Normal, "Parked", ""},
	"tracking":   {Normal, "Migrating", ""},
	"converged":  {Normal, "Converged", ""},
	"compared":   {Normal, "Compared", ""},
	"freezing":   {Normal, "Freezing", ""},
	"committed":  {Normal, "Committed", ""},
	"resumed":    {Normal, "Resumed", ""},
	"rolledback": {Normal, "RolledBack", ""},
	"note":       {Warning, "Trouble", ""},
}

// Of is what to record of a daemon's event; false if it is for the logs only.
func Of(e *nodev1.Event) (Event, bool) {
	if e.Result != nil {
		return end(e.Phase, e.Result), true
	}
	k, ok := reasons[e.Kind]
	k.Message = e.Message
	return k, ok
}

// end is the last event of a migration.
func end(p nodev1.Phase, r *nodev1.Result) Event {
	switch {
	case r.Succeeded:
		return Event{Normal, "Succeeded", Summary(r)}
	case r.Lost:
		return Event{Warning, "Lost", r.Error}
	case p == nodev1.Phase_PHASE_CANCELLED:
		return Event{Normal, "Cancelled", "the pod runs on " + r.From + ": " + r.Error}
	case p == nodev1.Phase_PHASE_MIGRATION_COMPLETE:
		return Event{Warning, "Unfinished", "the pod is " + r.Destination.GetNode() + "'s, and not all of it is cleared away: " + r.Error}
	}
	return Event{Warning, "Failed", "the pod runs on " + r.From + ": " + r.Error}
}

// Summary is one line about a move that succeeded: of what, from where to where, how
// long it took and how much went over.
func Summary(r *nodev1.Result) string {
	text := fmt.Sprintf("pod %s moved from %s to %s in %v", path.Base(r.Pod), r.From, r.Destination.GetNode(), duration(r.TotalUs, 100*time.Millisecond))
	if d := r.Downtime; d != nil {
		text += fmt.Sprintf(", downtime %v", duration(d.MeasuredUs, time.Millisecond))
		if us := r.Totals.GetPredictedDowntimeUs(); us > 0 {
			text += fmt.Sprintf(" (predicted %v)", duration(us, time.Millisecond))
		}
	}
	if held := Throttle(r.Totals).String(); held != "" {
		text += ", " + held
	}
	if m := Memory(r); m > 0 {
		text += fmt.Sprintf(", memory %s, sent %s", units.BytesSize(float64(m)), units.BytesSize(float64(r.Totals.GetWireBytesSent())))
	}
	return text
}

// Throttle is how far a pod is, or was at last, held back.
func Throttle(p *nodev1.Progress) precopy.Throttle {
	return precopy.Throttle{Cores: float64(p.GetThrottleMilliCpu()) / 1000, Of: float64(p.GetThrottleOfMilliCpu()) / 1000}
}

// Memory is how much of it the pod had, bytes: what the first copy found, or, of a pod
// that was frozen first, what was copied then, or was left at the source.
func Memory(r *nodev1.Result) uint64 {
	if m := r.Totals.GetMemoryBytes(); m > 0 {
		return m
	}
	return r.FinalBytes + r.LeftPages*pagestream.PageSize
}

func duration(us uint64, round time.Duration) time.Duration {
	return (time.Duration(us) * time.Microsecond).Round(round)
}
