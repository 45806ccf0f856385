package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cutover"
)

// moveTimeout is how long a move may take until nothing is left of it.
const moveTimeout = 2 * time.Minute

// follow shows see each state of a PodMigration until it is done, or fails.
func (c *cluster) follow(ctx context.Context, m *v1alpha1.PodMigration, see func(*v1alpha1.PodMigration) (done bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	w, err := c.user.Watch(ctx, new(v1alpha1.PodMigrationList), client.InNamespace(m.Namespace),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", m.Name)})
	if err != nil {
		return fmt.Errorf("PodMigration %s: %w", m.Name, err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		now, ok := e.Object.(*v1alpha1.PodMigration)
		if !ok || e.Type == watch.Deleted {
			return fmt.Errorf("PodMigration %s: watched, and saw that it was %s: %v", m.Name, e.Type, e.Object)
		}
		if done, err := see(now); done || err != nil {
			return err
		}
	}
	return errors.Join(fmt.Errorf("PodMigration %s: the watch of it ended", m.Name), ctx.Err())
}

// following is what is learnt of a move while it goes on.
type following struct {
	p *pod

	moved
	agreed      time.Time // when the cluster was seen to have agreed to the commit
	id          string    // of the migration
	address     string    // of redis at the destination
	destination string    // the pod there
}

// see takes in a state. It is done when nothing is left of the migration but the object.
func (f *following) see(m *v1alpha1.PodMigration) (done bool, err error) {
	s := &m.Status
	if d := s.DestinationPod; d != nil {
		f.destination = d.Name
		if at := redisAt(d.IP); d.IP != "" && at != f.address {
			f.address = at
			f.p.redis.AlsoAt(at) // the client may look there as soon as it likes
		}
	}
	if m.Agreed() && f.agreed.IsZero() {
		f.agreed = time.Now()
	}
	if s.Phase.Over() && s.Phase != v1alpha1.PhaseSucceeded {
		return false, fmt.Errorf("PodMigration %s is %s: %s", m.Name, s.Phase, s.Message)
	}
	if s.Phase != v1alpha1.PhaseSucceeded {
		return false, nil
	}
	if f.id = s.Migration; f.total == 0 {
		f.total = time.Since(f.began)
		if s.Downtime != nil {
			f.downtime = s.Downtime.Duration
		}
		// The cutover is asked for as soon as the cluster has agreed.
		f.frozen = f.agreed.Add(prepared(s.Stages))
	}
	return len(m.Finalizers) == 0 && meta.IsStatusConditionTrue(s.Conditions, v1alpha1.ConditionCleaned), nil
}

// prepared is how long a cutover was prepared before the pod was frozen.
func prepared(stages []v1alpha1.Stage) time.Duration {
	for _, s := range stages {
		if s.Name == string(cutover.Prepare) {
			return s.Duration.Duration
		}
	}
	return 0
}
