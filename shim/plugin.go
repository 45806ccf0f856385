package shim

import (
	"context"

	containerdshim "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	gorunc "github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
)

// RuntimeName is what containerd's configuration calls this runtime.
const RuntimeName = "io.containerd.godwit.v2"

// Register makes the shim's services known to containerd's shim framework.
func Register() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return newTasks(ic.Context, publisher.(containerdshim.Publisher), sd.(shutdown.Service))
		},
	})
}

func newTasks(ctx context.Context, publisher containerdshim.Publisher, sd shutdown.Service) (*tasks, error) {
	stock, err := task.NewTaskService(ctx, publisher, sd)
	if err != nil {
		return nil, err
	}
	monitor := newRestoreMonitor(gorunc.Monitor) // the stock service's
	gorunc.Monitor = monitor
	p := &pod{containers: map[string]*container{}}
	m := newMigrations(p, monitor)
	sd.RegisterCallback(func(context.Context) error {
		m.close()
		return nil
	})
	return &tasks{TTRPCTaskService: stock, pod: p, migrations: m}, nil
}
