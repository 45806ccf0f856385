package cli

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"k8s.io/client-go/kubernetes"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/identity"
)

// keepIdentity gets the node a certificate if it is one of a cluster, and renews
// it until stop is called.
func keepIdentity(ctx context.Context, configFile string, log *slog.Logger) (stop func(), err error) {
	config, err := nodecontroller.LoadConfig(configFile)
	if err != nil {
		return nil, err
	}
	if !config.Kubernetes.Enabled || config.Kubernetes.Signer == "" {
		return func() {}, nil
	}
	access, err := identity.Access(config.Kubernetes.Kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	k := &identity.Keeper{
		Client: client, Namespace: config.Kubernetes.Namespace, Node: config.NodeName, Signer: config.Kubernetes.Signer, Dir: config.PKIDir,
		Log: log.With("node", config.NodeName),
	}
	if err := k.Ensure(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { k.Run(ctx) })
	return func() { cancel(); running.Wait() }, nil
}
