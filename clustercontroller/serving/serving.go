// Package serving gives the controller's webhook server a certificate, and
// writes into webhook configurations the authority by which the API server
// knows it. Each replica issues its own with the cluster's authority: there is
// nothing to distribute. Which webhooks there are is decided elsewhere.
package serving

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/clustercontroller/authority"
)

// A certificate is made anew when half of its time is over.
const validity = 30 * 24 * time.Hour

// Certificates issues the webhook server's certificate.
type Certificates struct {
	ca    *authority.Authority
	names []string

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	renew   time.Time        // guarded by mu
}

// NewCertificates issues certificates for the names of a Service.
func NewCertificates(ca *authority.Authority, service, namespace string) (*Certificates, error) {
	c := &Certificates{ca: ca, names: []string{service + "." + namespace + ".svc", service + "." + namespace + ".svc.cluster.local"}}
	_, err := c.get(time.Now())
	return c, err
}

// TLS is how the webhook server serves.
func (c *Certificates) TLS() []func(*tls.Config) {
	return []func(*tls.Config){func(t *tls.Config) {
		t.MinVersion = tls.VersionTLS13
		t.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()) }
	}}
}

func (c *Certificates) get(now time.Time) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && now.Before(c.renew) {
		return c.current, nil
	}
	cert, key, err := c.ca.IssueServer(c.names, validity)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the webhook server: %w", err)
	}
	c.current, c.renew = &pair, now.Add(validity/2)
	return c.current, nil
}

// Add has the manager keep the authority in every webhook of the configurations,
// of either kind, that send to the Service.
func Add(m manager.Manager, ca *authority.Authority, service, namespace string) error {
	t := trust{client: m.GetClient(), bundle: ca.CertPEM(), service: service, namespace: namespace}
	for name, kind := range map[string]client.Object{
		"trust-validating": &admissionv1.ValidatingWebhookConfiguration{},
		"trust-mutating":   &admissionv1.MutatingWebhookConfiguration{},
	} {
		ours := predicate.NewPredicateFuncs(func(o client.Object) bool { return t.write(o.DeepCopyObject().(client.Object)) })
		err := builder.ControllerManagedBy(m).Named(name).For(kind, builder.WithPredicates(ours)).
			Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
				return reconcile.Result{}, t.reconcile(ctx, r, kind.DeepCopyObject().(client.Object))
			}))
		if err != nil {
			return fmt.Errorf("trust in webhooks: %w", err)
		}
	}
	return nil
}

// trust is what webhook configurations have to say of the authority.
type trust struct {
	client             client.Client
	bundle             []byte
	service, namespace string
}

func (t trust) reconcile(ctx context.Context, r reconcile.Request, o client.Object) error {
	if err := t.client.Get(ctx, r.NamespacedName, o); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !t.write(o) {
		return nil
	}
	if err := t.client.Update(ctx, o); err != nil {
		return fmt.Errorf("trust in webhooks of %s: %w", r.Name, err)
	}
	return nil
}

// write puts the authority where it is missing, and says whether it was.
func (t trust) write(o client.Object) bool {
	var all []*admissionv1.WebhookClientConfig
	switch o := o.(type) {
	case *admissionv1.ValidatingWebhookConfiguration:
		for i := range o.Webhooks {
			all = append(all, &o.Webhooks[i].ClientConfig)
		}
	case *admissionv1.MutatingWebhookConfiguration:
		for i := range o.Webhooks {
			all = append(all, &o.Webhooks[i].ClientConfig)
		}
	}
	changed := false
	for _, c := range all {
		if c.Service != nil && c.Service.Name == t.service && c.Service.Namespace == t.namespace && !bytes.Equal(c.CABundle, t.bundle) {
			c.CABundle, changed = t.bundle, true
		}
	}
	return changed
}
