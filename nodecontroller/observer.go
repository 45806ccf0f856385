package nodecontroller

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// Observer is told what happens in the migrations that this node has a part in.
// It is called with locks held: it returns at once, asks the daemon nothing, and
// changes nothing of what it is given.
type Observer interface {
	// Event is one of a migration whose source this node is; the first is of kind
	// accepted, the last of kind ended.
	Event(e *nodev1.Event)
	// Ended is told once of each migration whose source or destination this node
	// was. reason is one word of a fixed set, none after a success.
	Ended(m *nodev1.Migration, reason string)
}

// Observe adds an observer, before Run.
func (d *Daemon) Observe(o Observer) { d.observers = append(d.observers, o) }

func (d *Daemon) observe(e *nodev1.Event) {
	for _, o := range d.observers {
		o.Event(e)
	}
}

func (d *Daemon) observeEnd(m *nodev1.Migration, why error) {
	for _, o := range d.observers {
		o.Ended(m, reason(why))
	}
}

// errSourceBrokeOff: the source told this node, the destination, to drop the pod.
var errSourceBrokeOff = errors.New("the source broke off")

// reasons are what migrations end of, the most telling first.
var reasons = []struct {
	name string
	is   func(error) bool
}{
	{"cancelled", is(ErrCancelled)},
	{"daemon_stopping", is(errStopping)},
	{"timeout", is(ErrTimeout)},
	{"peer_silent", is(ErrPeerSilent)},
	{"source_broke_off", is(errSourceBrokeOff)},
	{"source_lost", is(errSourceLost)},
	{"hold_lost", is(errHoldLost)},
	{"destination_lost", is(errDestinationLost)},
	{"in_doubt", is(errInDoubt)},
	{"shim", is(errAbortedByShim)},
	{"immovable", is(cri.ErrImmovable)},
	{"unknown_peer", is(ErrUnknownPeer)},
	{"no_room", errdefs.IsResourceExhausted},
	{"incompatible", errdefs.IsFailedPrecondition},
	{"unreachable", errdefs.IsUnavailable},
	{"daemon_stopping", is(context.Canceled)},
}

func is(sentinel error) func(error) bool {
	return func(err error) bool { return errors.Is(err, sentinel) }
}

// reasonNames are all words that a failure may be counted under.
func reasonNames() []string {
	names := []string{"other"}
	for _, r := range reasons {
		if !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	return names
}

// reason is the one word for why a migration ended.
func reason(err error) string {
	if err == nil {
		return "none"
	}
	for _, r := range reasons {
		if r.is(err) {
			return r.name
		}
	}
	return "other"
}
