package kubernetes

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"godwit.dev/godwit/nodecontroller"
)

func TestANodeThatIsOffIsOutOfService(t *testing.T) {
	b := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{
		{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}, {Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute},
	}}}
	b.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}}
	peers := &Peers{reader: fake.NewClientBuilder().WithObjects(b).Build(), port: 7440}
	if _, err := peers.Address("b"); !errors.Is(err, nodecontroller.ErrOutOfService) || errors.Is(err, nodecontroller.ErrUnknownPeer) {
		t.Error(err)
	}
}

func TestOnlyANodeThatIsNotInTheClusterIsUnknown(t *testing.T) {
	b := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	b.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}}
	b.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}} // it may come back
	api := fake.NewClientBuilder().WithObjects(b).Build()
	peers := &Peers{reader: api, port: 7440}
	if address, err := peers.Address("b"); err != nil || address != "10.0.0.2:7440" {
		t.Errorf("node b: %q, %v", address, err)
	}
	if _, err := peers.Address("c"); !errors.Is(err, nodecontroller.ErrUnknownPeer) {
		t.Errorf("node c: %v", err)
	}
	peers.reader = interceptor.NewClient(api, interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return errors.New("connection refused")
		},
	})
	if _, err := peers.Address("b"); err == nil || errors.Is(err, nodecontroller.ErrUnknownPeer) {
		t.Errorf("node b without an API server: %v", err)
	}
}
