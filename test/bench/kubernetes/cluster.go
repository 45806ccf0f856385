package main

import (
	"context"
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/kubernetes"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/trial"
)

// namespace has everything that the bench makes.
const namespace = "default"

// cluster is the lab's Kubernetes, and the bench its administrator.
type cluster struct {
	lab   *lab.Lab
	kube  *lab.Cluster
	user  client.WithWatch
	image string // with redis
}

// startCluster brings two nodes up.
func startCluster(ctx context.Context) (*cluster, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: clusterDir, Kubernetes: true})
	if err != nil {
		return nil, err
	}
	c := &cluster{lab: l, kube: l.Kubernetes()}
	if c.image, err = trial.RedisImage(ctx, l); err == nil {
		c.user, err = administrator(c.kube)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return c, nil
}

func administrator(k *lab.Cluster) (client.WithWatch, error) {
	config, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of the lab: %w", err)
	}
	config.QPS = -1 // no limit of the client's own
	scheme, err := kubernetes.Scheme()
	if err != nil {
		return nil, err
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("client of the cluster: %w", err)
	}
	return c, nil
}

// other is the node that name is not.
func other(name string) string {
	if name == "a" {
		return "b"
	}
	return "a"
}
