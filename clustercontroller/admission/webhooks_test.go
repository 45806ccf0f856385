package admission_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// One controller serves all of them; what is last ends it.
func TestOnAnAPIServer(t *testing.T) {
	c := newCluster(t)
	t.Run("of twenty pods at once one claims", func(t *testing.T) { c.testClaims(t, 1) })
	t.Run("of twenty pods at once three claim one each", func(t *testing.T) { c.testClaims(t, 3) })
	t.Run("a claim wins over progress that is written", c.testClaimConflict)
	t.Run("a dry run claims nothing", c.testDryCreate)
	t.Run("a set's pod whose creation got lost claims again", c.testClaimAgain)
	t.Run("after a claim that came to nothing none starts afresh", c.testClaimUnmade)
	t.Run("a claim that cannot be written refuses the pod", c.testClaimUnwritable)
	t.Run("an eviction waits for the move", c.testEviction)
	t.Run("a drain moves two at a time", c.testLimit)
	t.Run("an eviction after failures", c.testFailures)
	t.Run("a pod that asks for no move is evicted", c.testUntouched)
	t.Run("ended drains go", c.testSweep)
	t.Run("without the controller", c.testDown)
}

func (c *cluster) testSweep(t *testing.T) {
	for _, m := range c.wantDrains(t, "n2", 12) {
		c.end(t, &m, v1alpha1.PhaseSucceeded, time.Now().Add(-time.Hour))
	}
	eventually(t, "ended drains are removed", func(ctx context.Context) error {
		all, err := c.drains(ctx, "n2")
		if err == nil && len(all) > 0 {
			err = fmt.Errorf("%d are there", len(all))
		}
		return err
	})
	c.wantDrains(t, "n3", 2) // these ended just now
	mine := c.offer(t, "mine", "ReplicaSet", "web-abcde", "mine")
	c.end(t, mine, v1alpha1.PhaseSucceeded, time.Now().Add(-2*time.Hour))
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(mine), mine); err != nil {
		t.Errorf("a user's own: %v", err)
	}
}

func (c *cluster) testDown(t *testing.T) {
	m := c.offer(t, "down", "ReplicaSet", "web-abcde", "down")
	c.stop()
	pod := c.pod(t, "down", "n5") // it has no owner
	if err := errors.Join(c.evict(t.Context(), pod), c.gone(t.Context(), pod)); err != nil {
		t.Error("an eviction does not pass:", err)
	}
	for _, kind := range []string{"ReplicaSet", "Job"} {
		if err := c.Create(t.Context(), owned("web-", kind, "down")); !apierrors.IsInternalError(err) {
			t.Errorf("a pod of a %s: %v", kind, err)
		}
	}
	c.wantClaim(t, m, v1alpha1.ClaimOpen)
	classless := owned("web-", "ReplicaSet", "down")
	classless.Spec.RuntimeClassName = nil
	for what, pod := range map[string]*corev1.Pod{"without the class": classless, "of another kind of owner": owned("web-", "DaemonSet", "down")} {
		if err := c.Create(t.Context(), pod); err != nil {
			t.Errorf("a pod %s: %v", what, err)
		}
	}
}
