package clustercontroller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"godwit.dev/godwit/clustercontroller/admission"
	"godwit.dev/godwit/clustercontroller/attendance"
	"godwit.dev/godwit/clustercontroller/authority"
	"godwit.dev/godwit/clustercontroller/serving"
	"godwit.dev/godwit/clustercontroller/signing"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// LeaseName is that of the Lease by which replicas agree on a leader.
const LeaseName = "godwit-controller"

// stopGrace is how long requests under way may take when the controller stops.
const stopGrace = 10 * time.Second

// minValidity is the least for a node's certificate: nodes look at theirs every
// ten minutes, and it is valid from an hour before it was made.
const minValidity = 2 * time.Hour

// ErrValidity is returned for certificates that would end before they are renewed.
var ErrValidity = errors.New("certificates would not hold long enough to be renewed in time")

// Options are the controller's settings. Every field must be set.
type Options struct {
	// Namespace is Godwit's own: the authority's Secret and ConfigMap, the Lease
	// and the nodes' service account are in it.
	Namespace string
	// Service is the name of the Service by which the API server reaches webhooks.
	Service string
	// WebhookPort is where webhooks are served, on all addresses.
	WebhookPort int
	// HealthAddress serves /healthz and /readyz, MetricsAddress /metrics; ":8081".
	HealthAddress, MetricsAddress string
	// Signer signs the nodes' certificates: v1alpha1.SignerPeer is the controller
	// itself, with an authority of its own.
	Signer string
	// Validity is how long a node's certificate holds. Nodes renew theirs when a
	// third of it is left.
	Validity time.Duration
	// Admission is how webhooks answer.
	Admission admission.Options
}

// Run runs the controller until ctx ends, or until it loses the lead.
func Run(ctx context.Context, config *rest.Config, o Options, log *slog.Logger) error {
	if o.Validity < minValidity {
		return fmt.Errorf("%w: %v, want %v or more", ErrValidity, o.Validity, minValidity)
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	scheme, err := NewScheme()
	if err != nil {
		return err
	}
	// The authority comes before everything: webhooks are served with it too.
	direct, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	ca, err := authority.Ensure(ctx, direct, o.Namespace)
	if err != nil {
		return err
	}
	certificates, err := serving.NewCertificates(ca, o.Service, o.Namespace)
	if err != nil {
		return err
	}
	grace := stopGrace
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		LeaderElection:                true,
		LeaderElectionID:              LeaseName,
		LeaderElectionNamespace:       o.Namespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &grace,
		HealthProbeBindAddress:        o.HealthAddress,
		Metrics:                       server.Options{BindAddress: o.MetricsAddress},
		WebhookServer:                 webhook.NewServer(webhook.Options{Port: o.WebhookPort, TLSOpts: certificates.TLS()}),
		// Rights are given for Godwit's own namespace only where an object has one.
		Cache: cache.Options{ByObject: cached(o.Namespace)},
	})
	if err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	if err := addParts(m, ca, o); err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// addParts is where a part of the controller plugs in.
func addParts(m manager.Manager, ca *authority.Authority, o Options) error {
	if o.Signer == v1alpha1.SignerPeer { // else the nodes trust another authority
		if err := authority.Add(m, ca, o.Namespace); err != nil {
			return err
		}
	}
	if err := signing.Add(m, ca, signing.Options{Namespace: o.Namespace, Signer: o.Signer, Validity: o.Validity}); err != nil {
		return err
	}
	if err := serving.Add(m, ca, o.Service, o.Namespace); err != nil {
		return err
	}
	if err := admission.Add(m, o.Admission); err != nil {
		return err
	}
	if err := attendance.Add(m); err != nil {
		return err
	}
	if err := m.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if err := m.AddReadyzCheck("webhooks", m.GetWebhookServer().StartedChecker()); err != nil {
		return fmt.Errorf("readiness: %w", err)
	}
	return nil
}

// cached says which objects of a kind the cache keeps, where not all.
func cached(namespace string) map[client.Object]cache.ByObject {
	all := authority.CachedIn(namespace)
	maps.Copy(all, attendance.Cached())
	return all
}

// NewScheme has the types that the controller reads and writes.
func NewScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("scheme: %w", err)
		}
	}
	return s, nil
}
