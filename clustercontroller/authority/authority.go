// Package authority keeps the certificate authority of a cluster's nodes: its
// key in a Secret that nobody but the controller reads, its certificate in a
// ConfigMap for the nodes. What is signed with it is decided elsewhere; see
// package signing.
package authority

import (
	"bytes"
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"godwit.dev/godwit/pagestream/wire/pki"
)

// Name is that of the Secret with the authority, and of the ConfigMap with its
// certificate under the key pki.CACertFile.
const Name = "godwit-ca"

// Labels are on what the controller makes: its origin, for who looks.
var Labels = map[string]string{"app.kubernetes.io/name": "godwit", "app.kubernetes.io/managed-by": "godwit-controller"}

// Authority is the cluster's certificate authority.
type Authority struct{ *pki.CA }

// Ensure reads the authority, or makes it if there is none. Of several callers
// at once one makes it and the others read that.
func Ensure(ctx context.Context, c client.Client, namespace string) (*Authority, error) {
	key := types.NamespacedName{Namespace: namespace, Name: Name}
	var secret corev1.Secret
	err := c.Get(ctx, key, &secret)
	if apierrors.IsNotFound(err) {
		if err = create(ctx, c, key); err == nil || apierrors.IsAlreadyExists(err) {
			err = c.Get(ctx, key, &secret)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	ca, err := pki.ParseCA(secret.Data[pki.CACertFile], secret.Data[pki.CAKeyFile])
	if err != nil {
		return nil, fmt.Errorf("certificate authority: secret %s: %w: mend it, or delete it for a new one, with which every node's certificate is renewed", key, err)
	}
	return &Authority{ca}, nil
}

func create(ctx context.Context, c client.Client, key types.NamespacedName) error {
	ca, err := pki.NewCA("Godwit cluster")
	if err != nil {
		return err
	}
	private, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	return c.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: Labels},
		Type:       corev1.SecretTypeOpaque,
		Data:       map[string][]byte{pki.CACertFile: ca.CertPEM(), pki.CAKeyFile: private},
	})
}

// CachedIn says of which objects a manager's cache has to keep to the one
// ConfigMap: there are no rights to list any others.
func CachedIn(namespace string) map[client.Object]cache.ByObject {
	return map[client.Object]cache.ByObject{&corev1.ConfigMap{}: {
		Namespaces: map[string]cache.Config{namespace: {FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, Name)}},
	}}
}

// Add has the manager publish the authority's certificate, and again whenever
// somebody takes it away.
func Add(m manager.Manager, ca *Authority, namespace string) error {
	key := types.NamespacedName{Namespace: namespace, Name: Name}
	start := make(chan event.GenericEvent, 1)
	start <- event.GenericEvent{Object: &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: Name}}}
	err := builder.ControllerManagedBy(m).Named("authority").
		For(&corev1.ConfigMap{}).
		WatchesRawSource(source.Channel(start, &handler.EnqueueRequestForObject{})).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			if r.NamespacedName != key {
				return reconcile.Result{}, nil
			}
			return reconcile.Result{}, publish(ctx, m.GetClient(), key, ca.CertPEM())
		}))
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	return nil
}

// publish makes sure that the ConfigMap has the certificate. Others that it has
// stay: during a change of authorities nodes trust both.
func publish(ctx context.Context, c client.Client, key types.NamespacedName, cert []byte) error {
	var have corev1.ConfigMap
	err := c.Get(ctx, key, &have)
	switch {
	case apierrors.IsNotFound(err):
		err = c.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: Labels},
			Data:       map[string]string{pki.CACertFile: string(cert)},
		})
	case err == nil && !bytes.Contains([]byte(have.Data[pki.CACertFile]), cert):
		if have.Data == nil {
			have.Data = map[string]string{}
		}
		have.Data[pki.CACertFile] = string(cert) + have.Data[pki.CACertFile]
		err = c.Update(ctx, &have)
	}
	if err != nil {
		return fmt.Errorf("certificate of the authority, configmap %s: %w", key, err)
	}
	return nil
}
