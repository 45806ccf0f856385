// Package admission is the webhooks by which Godwit takes part in what happens
// to a cluster's pods: an owner's new pod becomes a migration's destination
// (claiming), and an eviction moves a pod that asks for it (draining). Both are
// one decision each, as a pure function, and a handler that reads live objects
// and carries the decision out.
//
// How a pod becomes a destination's is package destination's, the move itself
// the node daemons', certificates package serving's, and which requests come
// here the Helm chart's (templates/webhooks.yaml). docs/drain.md says it to users.
package admission

import (
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// Paths at which the webhooks are served.
const (
	ClaimPath    = "/claim"
	EvictionPath = "/evict"
)

// Options are the webhooks' settings. Every field must be above zero.
type Options struct {
	// PerNode is how many drains of pods run at a time from one node.
	PerNode int
	// Attempts is how many moves of a pod may fail before an eviction of it asks
	// for no more.
	Attempts int
	// Pause is between the first attempt's end and the second; then twice as long
	// each time.
	Pause time.Duration
	// Keep is how long the PodMigrations of a pod's drain stay after the last of
	// them ended. An eviction after that counts attempts from zero.
	Keep time.Duration
}

func (o Options) check() error {
	if o.PerNode <= 0 || o.Attempts <= 0 || o.Pause <= 0 || o.Keep <= 0 {
		return fmt.Errorf("webhooks: drains per node (%d), attempts (%d), pause (%s) and how long ended drains are kept (%s) must be above zero",
			o.PerNode, o.Attempts, o.Pause, o.Keep)
	}
	return nil
}

// Add has the manager serve the webhooks on every replica, and its leader remove
// drains that have ended.
func Add(m manager.Manager, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	decoder := admission.NewDecoder(m.GetScheme())
	server := m.GetWebhookServer()
	server.Register(ClaimPath, &webhook.Admission{Handler: &claimHandler{decoder, m.GetAPIReader(), m.GetClient()}})
	server.Register(EvictionPath, &webhook.Admission{Handler: &evictionHandler{
		decoder: decoder, live: m.GetAPIReader(), client: m.GetClient(), options: o, now: time.Now,
	}})
	return addSweep(m, o.Keep)
}
