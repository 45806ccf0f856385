package shim

import (
	"context"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// countedTasks stands for the stock service: it ends the shim only without containers.
type countedTasks struct {
	taskAPI.TTRPCTaskService
	containers map[string]bool
	ended      chan struct{}
}

func (s *countedTasks) Delete(_ context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	delete(s.containers, r.ID)
	return &taskAPI.DeleteResponse{}, nil
}

func (s *countedTasks) Shutdown(context.Context, *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	if len(s.containers) == 0 {
		close(s.ended)
	}
	return &ptypes.Empty{}, nil
}

func TestAShimEndsThoughItsSandboxIsDeletedBeforeAContainer(t *testing.T) {
	stock := &countedTasks{containers: map[string]bool{"sandbox": true, "redis": true}, ended: make(chan struct{})}
	p := &pod{containers: map[string]*container{"sandbox": {id: "sandbox"}, "redis": {id: "redis"}}}
	tasks := &tasks{TTRPCTaskService: stock, pod: p, migrations: newMigrations(p, nil)}
	remove := func(id string) (answered context.CancelFunc) {
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := tasks.Delete(ctx, &taskAPI.DeleteRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		return cancel
	}

	remove("sandbox")()
	if _, err := tasks.Shutdown(t.Context(), &taskAPI.ShutdownRequest{ID: "sandbox"}); err != nil {
		t.Fatal(err)
	}
	answered := remove("redis")
	select {
	case <-stock.ended:
		t.Fatal("the shim ends before it has answered")
	default:
	}
	answered()
	<-stock.ended
}

func TestAShimWithoutContainersStaysUntilItIsUnwanted(t *testing.T) {
	stock := &countedTasks{containers: map[string]bool{"redis": true}, ended: make(chan struct{})}
	p := &pod{containers: map[string]*container{"redis": {id: "redis"}}}
	tasks := &tasks{TTRPCTaskService: stock, pod: p, migrations: newMigrations(p, nil)}
	ctx, answered := context.WithCancel(t.Context())
	if _, err := tasks.Delete(ctx, &taskAPI.DeleteRequest{ID: "redis"}); err != nil {
		t.Fatal(err)
	}
	answered()
	select {
	case <-stock.ended:
		t.Fatal("the shim ends though nobody wants that")
	default:
	}
	if _, err := tasks.Shutdown(t.Context(), &taskAPI.ShutdownRequest{ID: "redis"}); err != nil {
		t.Fatal(err)
	}
	<-stock.ended
}
