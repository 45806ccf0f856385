package criu

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// CRIU is held by what runc and it have to say to each other: runc wants to be notified of each stage over the RPC socket, and CRIU
// waits for its answer (criu/action-scripts.c, run_scripts). runc finds a program of ours as criu, which gives the socket that it
// inherits from runc to the shim, takes one to the shim in its place, and becomes the real CRIU. The shim hands on what both say, and
// holds back runc's answer.
//
// An action script would do the same, but before 3.19 CRIU called none beside notifications. And it costs: CRIU forks and executes a shell
// at each of some eight stages, most of which pass by, while the pod stands still. For the same reason runc hears only of stages in which it
// has something to do.

// relaySocket is where, in the directory of the stand-ins, the one for CRIU finds the shim.
const relaySocket = "relay"

// traits are what a relay has to know of both sides.
type traits struct {
	// scripts: this CRIU calls action scripts beside notifications.
	scripts bool
	// quiet has CRIU log no more than warnings.
	quiet bool
	// hooks: the client has programs to run when the container's namespaces are there.
	hooks bool
}

// Relay is where CRIU is held.
type Relay struct {
	arrivals
	traits
	listener *net.UnixListener
	stages   []Stage
	verdicts chan Verdict
	// closed has who waits hear Stop; broken, after it, has all conversations end.
	closed, broken chan struct{}

	mu  sync.Mutex
	let int // stages from which CRIU was let go; guarded by mu

	closing  sync.Once
	accepter sync.WaitGroup
	// patience is how long Close waits for a CRIU that was let go from the last stage.
	patience time.Duration
}

// endLimit is ample for what a CRIU still has to do that was let go from the last stage: some 10 ms.
const endLimit = 10 * time.Second

// newRelay makes a relay in dir, where the stand-ins are, that stops CRIU at the given stages.
func newRelay(dir string, of traits, stages ...Stage) (*Relay, error) {
	listener, err := listenIn(dir)
	if err != nil {
		return nil, fmt.Errorf("relay to CRIU: %w", err)
	}
	r := &Relay{
		arrivals: make(arrivals, len(stages)), traits: of, listener: listener, stages: stages,
		// CRIU may hear its verdict before it has come to the stage: one for each, and one that calls all off.
		verdicts: make(chan Verdict, len(stages)+1), closed: make(chan struct{}), broken: make(chan struct{}),
		patience: endLimit,
	}
	r.accepter.Go(r.accept)
	return r, nil
}

// throughDirectory gives the address of a socket in a directory: its path may be longer than an address can be (unix(7)).
func throughDirectory(dir string) (address *net.UnixAddr, done func(), err error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("directory %s: %w", dir, err)
	}
	address = &net.UnixAddr{Net: "unixpacket", Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, relaySocket)}
	return address, func() { unix.Close(fd) }, nil
}

func listenIn(dir string) (*net.UnixListener, error) {
	address, done, err := throughDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	l, err := net.ListenUnix(address.Net, address)
	if err == nil {
		l.SetUnlinkOnClose(false) // the name is another file's by then
	}
	return l, err
}

// accept serves every CRIU that runc starts: it asks one for its version first, and one for its features.
func (r *Relay) accept() {
	var serving sync.WaitGroup
	defer close(r.arrivals)
	defer serving.Wait()
	for {
		conn, err := r.listener.AcceptUnix()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer conn.Close()
			s, err := newRelayed(r, conn)
			if err != nil {
				return // CRIU and runc see both their sockets closed
			}
			s.serve()
		})
	}
}

// hold has CRIU wait at a stage, and says whether it may go on.
func (r *Relay) hold(stage Stage, pid int) Verdict {
	if stage == statusReady {
		return Stop
	}
	if !slices.Contains(r.stages, stage) {
		return Go
	}
	select {
	case r.arrivals <- Arrival{Stage: stage, PID: pid}:
	case <-r.closed:
		return Stop
	}
	select {
	case v := <-r.verdicts:
		return v
	case <-r.closed:
	}
	select {
	case v := <-r.verdicts: // it was given before
		return v
	default:
		return Stop
	}
}

// Answer gives the verdict of the stage at which CRIU waits, or of the next.
func (r *Relay) Answer(v Verdict) error {
	select {
	case <-r.closed:
		return errors.New("answer CRIU: the relay is closed")
	default:
	}
	select {
	case r.verdicts <- v:
	default:
		return errors.New("answer CRIU: it has come to fewer stages than there are verdicts")
	}
	if v == Go {
		r.mu.Lock()
		r.let++
		r.mu.Unlock()
	}
	return nil
}

// Close takes the relay down, and breaks off what CRIU and runc have to say to each other: one that still waits fails. But it waits for the
// end of a CRIU that was let go from the last stage: runc would take processes that run for lost. It does so for a while: one that hangs, or is
// stuck in the kernel, does not end because runc has. The directory stays.
func (r *Relay) Close() {
	r.closing.Do(func() {
		close(r.closed)
		r.listener.Close()
		if !r.letGo() {
			close(r.broken)
		} else {
			defer time.AfterFunc(r.patience, func() { close(r.broken) }).Stop()
		}
		r.accepter.Wait()
	})
}

// letGo says whether CRIU was let go from the last stage.
func (r *Relay) letGo() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.let > 0 && r.let == len(r.stages)
}

// configure changes what this machine has configured, of which scripts are the lines that name action scripts: CRIU is not to lock the
// network. One that calls no action scripts beside notifications takes them for its own mistake, and dies of that
// (criu/action-scripts.c, add_rpc_notify); it cannot leave the network alone either, and locks it by the tools that do nothing here.
func (r *Relay) configure(others, scripts []string) []string {
	if r.scripts {
		return slices.Concat(others, scripts, []string{"network-lock skip"})
	}
	return slices.Concat(others, []string{"network-lock iptables"})
}
