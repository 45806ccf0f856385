package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PID is the first process of a running container, as this node numbers it.
func (c *Client) PID(ctx context.Context, container string) (int, error) {
	s, err := c.runtime.ContainerStatus(ctx, &runtimev1.ContainerStatusRequest{ContainerId: container, Verbose: true})
	if err != nil {
		return 0, fmt.Errorf("status of container %.12s: %w", container, err)
	}
	// internal/cri/types.ContainerInfo of containerd
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(s.Info["info"]), &info); err != nil || info.PID <= 0 {
		return 0, errors.Join(fmt.Errorf("container %.12s: containerd's verbose status names no process", container), err)
	}
	return info.PID, nil
}
