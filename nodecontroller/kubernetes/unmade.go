package kubernetes

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// unmadeAfter is how long after its claim was taken a pod may still be about to be
// made: no request stays longer in the API server (kubernetes: kube-apiserver's
// --request-timeout is one minute).
const unmadeAfter = 65 * time.Second

// unmadeClaims are the claims that are taken by a pod that nobody has seen, each with
// when it was first found so.
type unmadeClaims map[types.UID]time.Time

// left is how long such a claim is left alone yet.
func (u unmadeClaims) left(uid types.UID, now time.Time) time.Duration {
	since, known := u[uid]
	if !known {
		since = now
		u[uid] = since
	}
	return since.Add(unmadeAfter).Sub(now)
}

// awaitsClaimant says whether a pod has taken a migration's claim, and nobody has seen
// it. A StatefulSet's may take it again by its name.
func awaitsClaimant(m *v1alpha1.PodMigration) bool {
	s := &m.Status
	return s.Claim == v1alpha1.ClaimTaken && s.DestinationPod == nil && !s.Phase.Over() && s.Owner != nil && s.Owner.Kind != kindStatefulSet
}

// reopen opens a claim again whose pod was never made: the webhook gave it away, and
// then a quota or another webhook refused the pod, or the answer got lost. Meanwhile
// the webhook lets no other pod of the owner be made.
func (c *Controller) reopen(ctx context.Context, m *v1alpha1.PodMigration) (ctrl.Result, error) {
	if left, awaits := c.unmade(m, time.Now()); !awaits || left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	live := new(v1alpha1.PodMigration)
	if err := c.reader.Get(ctx, client.ObjectKeyFromObject(m), live); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	// The pods are looked at after the object: what is written is what holds for them,
	// or somebody has written in between.
	pods, err := c.arrivals(ctx, live)
	if err != nil {
		return ctrl.Result{}, err
	}
	if len(pods) > 0 || live.UID != m.UID || !awaitsClaimant(live) {
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	}
	live.Status.Claim = v1alpha1.ClaimOpen
	if err := c.client.Status().Update(ctx, live); err != nil {
		return ctrl.Result{}, ignoreConflict(err)
	}
	c.claimSeen(m.UID)
	text := fmt.Sprintf("%s %s was about to make the destination's pod, and it was never made: its next pod is to be that", live.Status.Owner.Kind, live.Status.Owner.Name)
	c.log.Warn(text, "migration", idOf(m))
	c.record.Record(live, events.Event{Type: events.Warning, Reason: "ClaimReopened", Message: text})
	return ctrl.Result{}, nil
}

// unmade says whether a migration awaits who took its claim, and for how long that is
// left to be.
func (c *Controller) unmade(m *v1alpha1.PodMigration, now time.Time) (left time.Duration, awaits bool) {
	if !awaitsClaimant(m) {
		c.claimSeen(m.UID)
		return 0, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims.left(m.UID, now), true
}

// claimSeen forgets a claim: its pod is there, it is open, or it is of no use any more.
func (c *Controller) claimSeen(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.claims, uid)
}
