package kubernetes

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller"
)

// Peers finds the cluster's nodes by their Node objects.
type Peers struct {
	reader client.Reader
	port   int
}

// Peers returns a resolver of nodes whose daemons listen on port.
func (cl *Cluster) Peers(port int) *Peers {
	return &Peers{reader: cl.manager.GetAPIReader(), port: port}
}

// Address is where a node's daemon listens, host:port. The error wraps
// nodecontroller.ErrUnknownPeer if the cluster has no such node, and
// nodecontroller.ErrOutOfService if it is off.
func (p *Peers) Address(node string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	n := new(corev1.Node)
	err := p.reader.Get(ctx, client.ObjectKey{Name: node}, n)
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("node %s is not in the cluster: %w", node, nodecontroller.ErrUnknownPeer)
	}
	if err != nil {
		return "", fmt.Errorf("node %s: %w", node, err)
	}
	if outOfService(n) {
		return "", fmt.Errorf("node %s: %w", node, nodecontroller.ErrOutOfService)
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return net.JoinHostPort(a.Address, strconv.Itoa(p.port)), nil
		}
	}
	return "", fmt.Errorf("node %s has no InternalIP in its status", node)
}

// outOfService says whether an operator has said of a node that its machine is off.
func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == nodecontroller.OutOfServiceTaint })
}

// LookUpPod is the cluster's nodecontroller.PodLookup.
func (cl *Cluster) LookUpPod(ctx context.Context, namespace, name, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pod := new(corev1.Pod)
	err := cl.manager.GetAPIReader().Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
	switch {
	case apierrors.IsNotFound(err), err == nil && (string(pod.UID) != uid || !pod.DeletionTimestamp.IsZero()):
		return fmt.Errorf("pod %s/%s, UID %s: %w", namespace, name, uid, nodecontroller.ErrPodGone)
	case err != nil:
		return fmt.Errorf("pod %s/%s: %w", namespace, name, err)
	}
	return nil
}
