package cri

import (
	"context"
	"fmt"
	"time"
)

// lookAgain is how long a change can go unseen that came before containerd had
// taken the subscription, which it does not tell.
const lookAgain = 3 * time.Second

// taskEvents are what containerd tells when a container of CRI's has got a task,
// which is not started yet, or has lost it, or is gone itself.
var taskEvents = []string{
	`namespace=="` + containerdNamespace + `",topic=="/tasks/create"`,
	`namespace=="` + containerdNamespace + `",topic=="/tasks/delete"`,
	`namespace=="` + containerdNamespace + `",topic=="/containers/delete"`,
}

// WhenTasksChange calls look at once, and again whenever a container has got or
// lost its task or is gone, until look says that it is done, or fails.
func (c *Client) WhenTasksChange(ctx context.Context, look func(context.Context) (done bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	events, failed := c.containerd.Subscribe(ctx, taskEvents...)
	for {
		done, err := look(ctx)
		if err != nil || done {
			return err
		}
		select {
		case <-events:
		case <-again.C:
		case err := <-failed:
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("containerd's events: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
