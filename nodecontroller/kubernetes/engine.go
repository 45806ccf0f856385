package kubernetes

import (
	"context"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// Engine is what the controller asks of the node's daemon.
type Engine interface {
	// Begin has the daemon move a pod of this node, as the migration with that id.
	// The cluster's part in it is o's. An error means that nothing was begun.
	Begin(ctx context.Context, id string, r *nodev1.MigrateRequest, o nodecontroller.Orchestrator) (Move, error)
	// Active says whether the daemon still has something to do for a migration, as
	// its source or destination: it runs, or an earlier daemon left it.
	Active(id string) bool
	// CallOff tells the daemon, as a destination, that the cluster has not agreed to a
	// migration's commit and never will. It fails if that is of no use to it.
	CallOff(id string) error
	// Unwant tells the daemon, as a destination, that the pod of a migration to whose commit the cluster has agreed is
	// not to stay, and why: a source that has not decided yet breaks off.
	Unwant(id string, why error)
	// Dropped says whether the daemon, as a destination, has dropped what it had of a migration and never ran it: its
	// source cannot have committed it.
	Dropped(id string) bool
	// PinnedImages are, by container, the names under which kubelet finds the very
	// images of a pod of this node, namespace/name, at a destination.
	PinnedImages(ctx context.Context, pod string) (map[string]string, error)
	// SetRecovered has the daemon ask of for the cluster's part in the migrations of
	// an earlier daemon.
	SetRecovered(of func(migration string) nodecontroller.Orchestrator)
}

// Move is a migration under way at its source.
type Move interface {
	// Follow calls f for everything that happened from the beginning on, in order,
	// leaving out progress that is not the newest, and returns after the last event,
	// which has a result; or when f fails or ctx ends, with that error.
	Follow(ctx context.Context, f func(*nodev1.Event) error) error
	// Abort breaks it off, if it is not committed; its end is the last event.
	Abort(why error) error
}
