package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/test/e2e/census"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

// scene is a redis that a client writes to, and a migration of it that something happens to.
type scene struct {
	t        *testing.T // of the failure that is under way
	ctx      context.Context
	from, to *lab.Node
	p        *pod
	w        *writer
	m        *move.Move
	// migration and sandbox at the destination, known after the event "created".
	migration, sandbox string
	slack              census.Slack // what may be left
	unheard            bool         // who asked for it was not told how it ended
}

// sceneKeys of 1 KiB are what the scene's redis holds, fewer on a slow machine.
const sceneKeys = 48_000

// slowly keeps the first full copy going for some seconds, so that there is time to break it.
var slowly = []string{"--bandwidth", "24MiB", "--compression", "none"}

// newScene runs the redis and its client.
func newScene(t *testing.T) *scene {
	t.Helper()
	a, b := nodes(t)
	s := &scene{t: t, from: a, to: b}
	s.p = runPod(t, a, lab.PodSpec{Name: "scene", Containers: []lab.ContainerSpec{redisContainer(t)}})
	s.w = startWriter(t, s.p, keys(sceneKeys))
	return s
}

// start begins a migration.
func (s *scene) start(flags ...string) {
	s.t.Helper()
	m, err := move.Start(s.ctx, s.from, s.p.name, s.to.Name, flags...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = m
}

// await waits for an event of the migration.
func (s *scene) await(kind string) move.Event {
	s.t.Helper()
	return s.awaitFunc(func(e move.Event) bool { return e.Kind == kind })
}

func (s *scene) awaitFunc(wanted func(move.Event) bool) move.Event {
	s.t.Helper()
	e, err := s.m.AwaitFunc(s.ctx, func(e move.Event) bool {
		s.migration = e.Migration
		if e.Destination != nil {
			s.sandbox = e.Destination.Sandbox
		}
		return wanted(e)
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// inRounds waits until memory is on its way.
func (s *scene) inRounds() {
	s.t.Helper()
	s.awaitFunc(func(e move.Event) bool { return e.Progress != nil && e.Progress.BytesSent > 4<<20 })
}

// until polls for what no event tells, as fast as makes sense.
func (s *scene) until(what string, is func() bool) {
	s.t.Helper()
	for !is() {
		if s.ctx.Err() != nil {
			s.t.Fatalf("it never came: %s", what)
		}
		time.Sleep(pace.Stretch(time.Millisecond))
	}
}

// frozen waits until the pod is frozen: by its cgroup, which CRIU thaws soon, or by CRIU's hold on its processes. On a busy
// machine it may have moved before anybody looks: then late is true.
func (s *scene) frozen() (late bool) {
	s.t.Helper()
	pid := pidOf(s.t, s.from, "redis-server", "")
	s.await("freezing")
	s.until("the pod frozen", func() bool {
		late = unix.Kill(pid, 0) != nil
		return late || census.Frozen(s.from) || traced(pid)
	})
	if late {
		s.t.Log("the pod was not seen frozen, it has moved already")
	}
	return late
}

// traced says whether a process stands still under a tracer: state t of proc_pid_stat(5).
func traced(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, after, ok := strings.Cut(string(b), ") ")
	return err == nil && ok && strings.HasPrefix(after, "t")
}

// stage is where the destination's journal says that it stands.
func (s *scene) stage() string {
	b, err := os.ReadFile(s.to.Path("/run/godwit/migrations/" + s.migration + ".json"))
	if err != nil {
		return ""
	}
	var r struct {
		Stage string `json:"stage"`
	}
	_ = json.Unmarshal(b, &r) // it is replaced as a whole
	return r.Stage
}

// restoring waits until the destination restores, or has.
func (s *scene) restoring() {
	s.t.Helper()
	s.await("freezing")
	s.until("the destination restoring", func() bool { return s.past("destination-restoring") })
}

// past says whether the destination has come to a stage of its restore, or further.
func (s *scene) past(stage string) bool {
	stages := []string{"destination-restoring", "destination-held", "destination-committed"}
	return slices.Index(stages, s.stage()) >= slices.Index(stages, stage)
}

// held waits until the destination has restored and holds the pod; the source's daemon is stopped meanwhile, so that it
// cannot decide until the returned function lets it go on. On a busy machine it may have decided before it is stopped:
// then it goes on, and late is true.
func (s *scene) held() (goOn func(), late bool) {
	s.t.Helper()
	daemon := pidOf(s.t, s.from, "godwit-node", "") // now: it takes time, and then there is none
	s.restoring()
	if err := unix.Kill(daemon, unix.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	goOn = func() { _ = unix.Kill(daemon, unix.SIGCONT) }
	s.t.Cleanup(goOn)
	s.until("the destination holding the pod", func() bool { return s.past("destination-held") })
	if s.decided() {
		s.t.Log("the pod was not seen held, it has moved already")
		goOn()
		return goOn, true
	}
	return goOn, false
}

// decided says whether the pod's shim at the source has been told to commit.
func (s *scene) decided() bool {
	s.t.Helper()
	dir, err := os.Open(s.from.Path(shimv1.SocketDir)) // the path is longer than a socket's address may be
	if err != nil {
		s.t.Fatal(err)
	}
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(shimv1.SocketPath(s.p.ID))))
	if err != nil {
		s.t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	watch, err := shimv1.NewMigrationClient(client).Watch(s.ctx, &shimv1.WatchRequest{Migration: s.migration})
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := watch.Recv()
	if grpcstatus.Code(err) == codes.NotFound {
		return false // it was called off
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return p.GetState() == shimv1.State_STATE_COMMITTED
}

// killRestoring kills the shim of the pod at the destination while it restores, unless a busy machine has it restored before.
func (s *scene) killRestoring() {
	s.t.Helper()
	s.await("created")
	shim := s.shim()
	s.restoring()
	if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	// A shim that stands still has nobody told that it holds the pod: what the journal says now is so.
	if s.stage() != "destination-restoring" {
		s.t.Log("the pod was not seen restored, it is already")
		_ = unix.Kill(shim, unix.SIGCONT)
		return
	}
	s.kill(shim)
}

// killShim kills the shim of the pod at the destination.
func (s *scene) killShim() {
	s.t.Helper()
	s.kill(s.shim())
}

// shim is that of the pod at the destination.
func (s *scene) shim() int {
	s.t.Helper()
	if s.sandbox == "" {
		s.t.Fatal("the destination's sandbox is not known")
	}
	return pidOf(s.t, s.to, "containerd-shim", s.sandbox)
}

func (s *scene) kill(shim int) {
	s.t.Helper()
	if err := unix.Kill(shim, unix.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.slack["file /run/containerd/s/"] = 1 // containerd leaves the socket of a shim that was killed, runc's as well
}

// killDaemon kills a node's godwit-node.
func (s *scene) killDaemon(n *lab.Node) {
	s.t.Helper()
	if !n.KillDaemon() {
		s.t.Fatalf("node %s has no godwit-node to kill", n.Name)
	}
}

// pidOf finds a node's process by the beginning of its name, and something in its arguments.
func pidOf(t *testing.T, n *lab.Node, comm, argument string) int {
	t.Helper()
	pids, err := census.PIDs(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.HasPrefix(string(name), comm) && strings.Contains(string(args), argument) {
			return pid
		}
	}
	t.Fatalf("node %s has no process %s with %q", n.Name, comm, argument)
	return 0
}

// cut separates the two nodes from each other; the host, and so the client, reaches both. The returned function mends it.
func (s *scene) cut() (mend func()) {
	s.t.Helper()
	isolate := func(how string) error {
		var errs []error
		for _, n := range []*lab.Node{s.from, s.to} {
			// A port of a bridge that is isolated speaks to those that are not: not to another node's.
			if out, err := exec.Command("bridge", "link", "set", "dev", n.HostLink(), "isolated", how).CombinedOutput(); err != nil {
				errs = append(errs, errors.New(string(out)), err)
			}
		}
		return errors.Join(errs...)
	}
	if err := isolate("on"); err != nil {
		s.t.Fatal(err)
	}
	mend = func() {
		if err := isolate("off"); err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(mend)
	return mend
}

// ended waits for the end of the migration, and says whether the pod was moved.
func (s *scene) ended() (moved bool) {
	s.t.Helper()
	r, err := s.m.Wait(s.ctx)
	switch {
	case err == nil:
		s.t.Log("it was moved")
		s.p.moved(s.to, r)
		return true
	case !errors.Is(err, move.ErrFailed):
		s.t.Fatal(err)
	}
	s.t.Log(err)
	s.unheard = strings.Contains(err.Error(), "the daemon went away")
	return false
}

// movedUnheard says whether the pod was moved although nobody was told: its daemon was killed, and the source had decided before.
func (s *scene) movedUnheard() bool {
	s.t.Helper()
	if !s.unheard {
		return false
	}
	now, err := s.to.FindPod(s.ctx, s.p.name)
	if err != nil || now.ID != s.sandbox {
		return false
	}
	s.t.Log("it was moved, and who asked for it was not told")
	s.p.moved(s.to, &move.Result{Destination: &move.Destination{Sandbox: s.sandbox}})
	s.w.redis.AlsoAt(s.p.at(redisPort))
	return true
}

// runsOrInDoubt waits until so many more writes are acknowledged, or the two nodes cannot agree: the source has decided, and the
// destination, which holds the pod, does not hear of it.
func (s *scene) runsOrInDoubt(writes uint64) {
	s.t.Helper()
	from := s.w.redis.Acked()
	s.until("the pod running, or held in doubt", func() bool {
		return s.w.redis.Acked() >= from+writes || s.stage() == "destination-held" && s.decided()
	})
}

// undone waits until neither node has the migration under way any more: a daemon that was killed comes back and cleans up.
func (s *scene) undone() {
	s.t.Helper()
	for _, n := range []*lab.Node{s.from, s.to} {
		for {
			under, err := underWay(s.ctx, n)
			if err == nil && under == 0 {
				break
			}
			if s.ctx.Err() != nil {
				s.t.Fatalf("node %s still has %d migrations under way (%v)", n.Name, under, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// underWay counts the migrations of a node that have not ended.
func underWay(ctx context.Context, n *lab.Node) (int, error) {
	out, err := n.Exec(ctx, "godwitctl", "status", "--json")
	if err != nil {
		return 0, err
	}
	var all []struct {
		Ended string `json:"ended"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return 0, err
	}
	count := 0
	for _, m := range all {
		if m.Ended == "" {
			count++
		}
	}
	return count, nil
}
