package shim

import (
	"context"
	"sync"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/tmpfs"
)

// arrivalState is where one container of a destination stands.
type arrivalState int

const (
	// arrivalExpected: asked about, but its start has not come.
	arrivalExpected arrivalState = iota
	// arrivalParked: its start waits for the order to restore.
	arrivalParked
	// arrivalReady: CRIU has been started ahead, and waits for the images. If it ends
	// before it has restored the container, that is parked as it was.
	arrivalReady
	// arrivalRestoring: CRIU is at work.
	arrivalRestoring
	// arrivalHeld: its processes exist and wait for the commit.
	arrivalHeld
	// arrivalCommitted: it belongs here and nowhere else. CRIU is to let it run, and
	// has not: no process of it has run.
	arrivalCommitted
	// arrivalRepeating: CRIU has failed at that or has hung. What it left is removed,
	// and the container is restored again.
	arrivalRepeating
	// arrivalRunning: let go.
	arrivalRunning
	// arrivalEnded: failed, aborted or deleted.
	arrivalEnded
)

// arrivalMoves are the legal moves; every other is an error.
var arrivalMoves = map[arrivalState][]arrivalState{
	arrivalExpected:  {arrivalParked, arrivalEnded},
	arrivalParked:    {arrivalReady, arrivalRestoring, arrivalEnded},
	arrivalReady:     {arrivalRestoring, arrivalParked, arrivalEnded},
	arrivalRestoring: {arrivalHeld, arrivalParked, arrivalEnded},
	arrivalHeld:      {arrivalCommitted, arrivalEnded},
	arrivalCommitted: {arrivalRunning, arrivalRepeating, arrivalEnded},
	arrivalRepeating: {arrivalCommitted, arrivalEnded},
	arrivalRunning:   {arrivalEnded},
}

func (s arrivalState) String() string {
	return [...]string{"expected", "parked", "ready to restore", "restoring", "held", "committed", "restored again", "running", "ended"}[s]
}

// arrival is one container of the destination.
type arrival struct {
	container *container
	state     arrivalState
	// answeredBy is the process that stands for the container if its start is
	// answered early, else 0. It is set before parked is closed.
	answeredBy uint32
	// parked is closed when the start has come, or never will.
	parked chan struct{}
	// order has the stock start run; request, set before, is what it is to restore.
	// ahead has it run before that.
	order, ahead chan struct{}
	request      *shimv1.RestoreRequest
	// own are its own tmpfs mounts, which fillsTmpfs says are filled in here, and holds what they held when that was told; set before
	// ahead is closed.
	own        []tmpfs.Mount
	holds      []byte
	fillsTmpfs bool
	// names are those that a restore removes, set before order is closed.
	names []keptName
	// ended is done, with a cause, when there will be no running container.
	ended context.Context
	end   context.CancelCauseFunc
	// started is closed when the stock start has returned.
	started chan struct{}
	// failed is closed when the container is known never to run: no process of
	// it exists or ever did.
	failed   chan struct{}
	failedAt time.Time // set before failed is closed
	// filling makes the first fill once; fillErr is how that failed.
	filling sync.Once
	fillErr error

	// What follows is guarded by the destination's mu.

	// clearing is closed when who abandons the container has cleared it away; nil if nobody does.
	clearing chan struct{}

	fill    *fill       // of the latest attempt
	attempt *attempt    // the latest; nil before the order to restore
	cgroup  *freezer    // of the container, known once it was held; nil if it cannot be told
	made    sysvObjects // by CRIU, known once it was held
	ran     time.Time   // when it was let go; zero before that
	trouble error       // why the attempt before the latest came to nothing
}

func newArrival() *arrival {
	a := &arrival{parked: make(chan struct{}), order: make(chan struct{}), ahead: make(chan struct{}), started: make(chan struct{}), failed: make(chan struct{})}
	a.ended, a.end = context.WithCancelCause(context.Background())
	return a
}
