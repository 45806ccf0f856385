package shim

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

var migrationID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// errKilled ends the wait of a container that somebody kills before it runs.
var errKilled = errors.New("killed while waiting to be restored")

// tasks is the runc shim's task service; it notes the containers of the pod and
// restores those that are a migration's destination.
type tasks struct {
	taskAPI.TTRPCTaskService
	pod        *pod
	migrations *migrations
	unwanted   atomic.Bool // containerd has asked for the shim's end
}

// RegisterTTRPC puts the service on the shim's own server, as containerd's
// shim package asks of a plugin.
func (t *tasks) RegisterTTRPC(server *ttrpc.Server) error {
	taskAPI.RegisterTTRPCTaskService(server, t)
	return nil
}

// Create notes the container, and for a destination has the stock service take
// it for one that starts from a checkpoint.
func (t *tasks) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if r.Options, err = runcOptions(r.Options); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "%v", err)
	}
	if err := t.migrations.refuseDeparted(r.ID); err != nil {
		return nil, err
	}
	c, err := openBundle(r.ID, namespace, r.Bundle)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	c.stdio = stdio{in: r.Stdin, out: r.Stdout, err: r.Stderr}
	if t.migrations.arrived(c.migration) {
		c.migration = "" // a container that is started again, in a pod that has come
	}
	if c.migration != "" && !c.sandbox {
		if c.admission, err = admit(shimv1.AdmissionDir, c); err != nil {
			return nil, errgrpc.ToGRPCf(errdefs.ErrPermissionDenied, "%v", err)
		}
		r.Checkpoint = checkpointLink(c)
	}
	if err := t.migrations.listen(ctx, c.podID); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp, err := t.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	t.pod.add(c)
	if c.sandbox {
		if err := t.pod.noteSettings(c); err != nil { // its moves take a little longer
			log.G(ctx).WithError(err).Warn("settings of the pod's namespaces are not known")
		}
	}
	return resp, nil
}

// checkpointLink is where the stock service is told that the checkpoint is. It
// becomes a link to the images when the restore is ordered.
func checkpointLink(c *container) string { return filepath.Join(c.bundle, "checkpoint") }

// Start starts a process; a destination's container is parked first and then
// restored.
func (t *tasks) Start(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	start := func(ctx context.Context) (*taskAPI.StartResponse, error) { return t.TTRPCTaskService.Start(ctx, r) }
	if r.ExecID != "" {
		return start(ctx)
	}
	if err := t.migrations.refuseDeparted(r.ID); err != nil {
		return nil, err
	}
	c, ok := t.pod.get(r.ID)
	if !ok || c.migration == "" || c.sandbox {
		return start(ctx)
	}
	resp, err := t.migrations.startDestination(ctx, c, start)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return resp, nil
}

// Kill signals a process; killing a container that does not run yet ends its wait, and
// killing the sandbox that of all its containers.
func (t *tasks) Kill(ctx context.Context, r *taskAPI.KillRequest) (*ptypes.Empty, error) {
	if c, ok := t.pod.get(r.ID); ok && c.sandbox && r.ExecID == "" {
		t.migrations.cancelAll(errKilled)
	}
	if r.ExecID == "" {
		if err := t.migrations.endCommitted(ctx, r.ID); err != nil {
			return nil, err
		}
		t.migrations.cancel(r.ID, errKilled)
		if _, ok := t.failed(r.ID); ok {
			return &ptypes.Empty{}, nil
		}
	}
	return t.TTRPCTaskService.Kill(ctx, r)
}

// failed says when the start of a destination's container failed. There is
// then no process whose exit the stock service could report: it would call the
// container created for ever, and containerd would never delete it.
func (t *tasks) failed(id string) (time.Time, bool) {
	a, ok := t.migrations.arrival(id)
	if !ok {
		return time.Time{}, false
	}
	select {
	case <-a.failed:
		return a.failedAt, true
	default:
		return time.Time{}, false
	}
}

// failedStatus is the exit status of a container that never ran.
const failedStatus = 255

// State of a process; a container that never ran is stopped.
func (t *tasks) State(ctx context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	if r.ExecID == "" {
		if a, ok := t.migrations.arrival(r.ID); ok && a.answered() {
			return a.answeredState(), nil
		}
	}
	resp, err := t.TTRPCTaskService.State(ctx, r)
	if err != nil || r.ExecID != "" {
		return resp, err
	}
	if at, ok := t.failed(r.ID); ok {
		resp.Status, resp.ExitStatus, resp.ExitedAt = task.Status_STOPPED, failedStatus, timestamppb.New(at)
	}
	return resp, nil
}

// Wait for a process to end; a container that never ran has.
func (t *tasks) Wait(ctx context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	a, ok := t.migrations.arrival(r.ID)
	if !ok && r.ExecID == "" {
		if c, known := t.pod.get(r.ID); known && c.migration != "" && !c.sandbox {
			a, ok = t.migrations.expectArrival(c)
		}
	}
	if !ok || r.ExecID != "" {
		return t.TTRPCTaskService.Wait(ctx, r)
	}
	type answer struct {
		resp *taskAPI.WaitResponse
		err  error
	}
	stock := make(chan answer, 1)
	go func() { // ends with the process, or with the shim
		resp, err := t.TTRPCTaskService.Wait(ctx, r)
		stock <- answer{resp, err}
	}()
	select {
	case w := <-stock:
		return w.resp, w.err
	case <-a.failed:
		return &taskAPI.WaitResponse{ExitStatus: failedStatus, ExitedAt: timestamppb.New(a.failedAt)}, nil
	}
}

// Delete removes a process, and forgets the container if it was its init.
func (t *tasks) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	if r.ExecID == "" {
		t.migrations.awaitLeft(ctx)
	}
	resp, err := t.TTRPCTaskService.Delete(ctx, r)
	if err == nil && r.ExecID == "" {
		left := t.pod.remove(r.ID)
		t.migrations.forget(r.ID)
		if left == 0 && t.unwanted.Load() {
			// When the answer has been sent: ttrpc ends ctx then.
			context.AfterFunc(ctx, func() {
				_, _ = t.TTRPCTaskService.Shutdown(context.WithoutCancel(ctx), &taskAPI.ShutdownRequest{ID: r.ID})
			})
		}
	}
	return resp, err
}

// Shutdown ends the shim when it has no container. containerd asks for that when it has deleted the sandbox, which in its
// mind is last, and never again (containerd: core/runtime/v2/shim.go, shimTask.delete). But a sandbox that is stopped while
// a container of it waits for its restore goes first, and the container's failed start after it.
func (t *tasks) Shutdown(ctx context.Context, r *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	t.unwanted.Store(true) // first: then either the stock service has no container left, or the last Delete sees this
	return t.TTRPCTaskService.Shutdown(ctx, r)
}
