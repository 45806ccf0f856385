package cri

import (
	"context"
	"encoding/json"
	"fmt"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime is how containerd's configuration describes a runtime handler
// (internal/cri/config/config.go, Runtime).
type Runtime struct {
	Type                 string   `json:"runtimeType"`
	PodAnnotations       []string `json:"PodAnnotations"`
	ContainerAnnotations []string `json:"ContainerAnnotations"`
	Options              struct {
		BinaryName string `json:"BinaryName"`
	} `json:"options"`
}

// defaultOCIRuntime is what runs containers if the options name nothing else
// (go-runc, DefaultCommand).
const defaultOCIRuntime = "runc"

// OCIRuntime is the program that runs the handler's containers: a path, or a name
// to be found in containerd's PATH.
func (r Runtime) OCIRuntime() string {
	if r.Options.BinaryName == "" {
		return defaultOCIRuntime
	}
	return r.Options.BinaryName
}

// Runtimes are the runtime handlers that containerd is configured with, by name.
func (c *Client) Runtimes(ctx context.Context) (map[string]Runtime, error) {
	s, err := c.runtime.Status(ctx, &runtimev1.StatusRequest{Verbose: true})
	if err != nil {
		return nil, fmt.Errorf("containerd's status: %w", err)
	}
	var config struct {
		Containerd struct {
			Runtimes map[string]Runtime `json:"runtimes"`
		} `json:"containerd"`
	}
	if err := json.Unmarshal([]byte(s.Info["config"]), &config); err != nil {
		return nil, fmt.Errorf("containerd's configuration as CRI tells it: %w", err)
	}
	return config.Containerd.Runtimes, nil
}
