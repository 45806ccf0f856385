package admission_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
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

// offer makes a migration whose claim is open.
func (c *cluster) offer(t *testing.T, name, kind, source string, owner types.UID) *v1alpha1.PodMigration {
	t.Helper()
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       v1alpha1.PodMigrationSpec{PodName: source},
	}
	c.create(t, m)
	m.Status = v1alpha1.PodMigrationStatus{
		Phase: v1alpha1.PhaseMigrating, Migration: "id-" + name, SourceNode: "a", DestinationNode: "b",
		SourcePod: &v1alpha1.PodReference{Name: source, UID: "p"},
		Owner:     &v1alpha1.Owner{APIVersion: "apps/v1", Kind: kind, Name: "web", UID: owner},
		Claim:     v1alpha1.ClaimOpen,
	}
	if err := c.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func (c *cluster) wantClaim(t *testing.T, m *v1alpha1.PodMigration, want v1alpha1.Claim) {
	t.Helper()
	var now v1alpha1.PodMigration
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(m), &now); err != nil {
		t.Fatal(err)
	}
	if now.Status.Claim != want {
		t.Errorf("claim of %s is %q, want %q", m.Name, now.Status.Claim, want)
	}
}

func (c *cluster) testClaims(t *testing.T, offers int) {
	owner := types.UID(fmt.Sprintf("claims-%d", offers))
	want := map[string]bool{}
	for i := range offers {
		m := c.offer(t, fmt.Sprintf("claims-%d-%d", offers, i), "ReplicaSet", "web-abcde", owner)
		want[m.Status.Migration] = true
	}
	pods := make([]*corev1.Pod, 20)
	var creating sync.WaitGroup
	for i := range pods {
		pods[i] = owned("web-", "ReplicaSet", owner)
		creating.Go(func() {
			// A conflict that lasts refuses the pod, and so does a claim whose pod has not been seen; a ReplicaSet creates it again.
			for {
				err := c.Create(t.Context(), pods[i])
				switch {
				case err == nil:
					c.introduce(t, pods[i])
					return
				case !apierrors.IsServiceUnavailable(err):
					t.Error(err)
					return
				}
				time.Sleep(100 * time.Millisecond) // as it does: all at once would keep a slow machine from answering any
			}
		})
	}
	creating.Wait()
	claimed := 0
	for _, pod := range pods {
		id := pod.Annotations[v1alpha1.AnnotationMigration]
		if id == "" {
			if len(pod.Spec.InitContainers) != 1 || pod.Spec.Affinity != nil || pod.Spec.Containers[0].Lifecycle == nil {
				t.Errorf("a pod that claims nothing was changed: %+v", pod.Spec)
			}
			continue
		}
		claimed++
		if !want[id] {
			t.Errorf("migration %q was claimed twice, or is none", id)
		}
		want[id] = false
		wantArrival(t, pod)
	}
	if claimed != offers {
		t.Errorf("%d pods claimed, want %d", claimed, offers)
	}
	for i := range offers {
		c.wantClaim(t, &v1alpha1.PodMigration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("claims-%d-%d", offers, i)}}, v1alpha1.ClaimTaken)
	}
}

// introduce says in its migration's status that a destination's pod is there, as its node does.
func (c *cluster) introduce(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	name := pod.Annotations[v1alpha1.AnnotationMovedBy]
	if name == "" {
		return
	}
	m := &v1alpha1.PodMigration{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name}}
	before := m.DeepCopy()
	m.Status.DestinationPod = &v1alpha1.PodReference{Name: pod.Name, UID: pod.UID}
	if err := c.Status().Patch(t.Context(), m, client.MergeFrom(before)); err != nil {
		t.Error(err)
	}
}

// A quota counts after the webhook has answered.
func (c *cluster) testClaimUnmade(t *testing.T) {
	m := c.offer(t, "unmade", "ReplicaSet", "web-abcde", "unmade")
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "none"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}},
	}
	c.create(t, quota)
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")} // as its controller says
	if err := c.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the quota counts", func(ctx context.Context) error {
		if err := c.Create(ctx, owned("web-", "ReplicaSet", "unmade")); !apierrors.IsForbidden(err) && !apierrors.IsServiceUnavailable(err) {
			return fmt.Errorf("create: %w", err)
		}
		return nil
	})
	c.wantClaim(t, m, v1alpha1.ClaimTaken)
	c.remove(t, quota)
	if err := c.Create(t.Context(), owned("web-", "ReplicaSet", "unmade")); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "PodMigration unmade waits") {
		t.Errorf("a fresh pod in its place: %v", err)
	}
	if err := c.Create(t.Context(), owned("web-", "ReplicaSet", "another")); err != nil {
		t.Errorf("a pod of another owner: %v", err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
		t.Fatal(err)
	}
	m.Status.Claim = v1alpha1.ClaimOpen // as the source's node does
	if err := c.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	pod := owned("web-", "ReplicaSet", "unmade")
	c.create(t, pod)
	wantArrival(t, pod)
}

func wantArrival(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	if len(pod.Spec.InitContainers) != 0 || pod.Spec.Containers[0].Lifecycle != nil || pod.Spec.Hostname != "web-abcde" || pod.Annotations[v1alpha1.AnnotationMovedBy] == "" {
		t.Errorf("not as it arrives: %v, %+v", pod.Annotations, pod.Spec)
	}
	if a := pod.Spec.Affinity; a == nil || !strings.Contains(a.String(), "Key:metadata.name,Operator:In,Values:[b]") {
		t.Errorf("bound to no node: %+v", a)
	}
}

func (c *cluster) testClaimConflict(t *testing.T) {
	m := c.offer(t, "conflict", "Job", "web-abcde", "conflict")
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := int64(1); ctx.Err() == nil; n++ {
			var now v1alpha1.PodMigration
			err := c.Get(ctx, client.ObjectKeyFromObject(m), &now)
			if err == nil {
				now.Status.BytesSent = n
				err = c.Status().Update(ctx, &now)
			}
			if err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	var pod *corev1.Pod
	for {
		pod = owned("web-", "Job", "conflict")
		err := c.Create(t.Context(), pod)
		if err == nil {
			break
		}
		if !apierrors.IsServiceUnavailable(err) {
			t.Error(err)
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	cancel()
	writing.Wait()
	if pod.Annotations[v1alpha1.AnnotationMigration] != "id-conflict" {
		t.Errorf("a fresh pod was let in: %v", pod.Annotations)
	}
	c.wantClaim(t, m, v1alpha1.ClaimTaken)
}

func (c *cluster) testDryCreate(t *testing.T) {
	m := c.offer(t, "dry", "ReplicaSet", "web-abcde", "dry")
	pod := owned("web-", "ReplicaSet", "dry")
	if err := c.Create(t.Context(), pod, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if pod.Annotations[v1alpha1.AnnotationMigration] != "" {
		t.Errorf("annotations %v", pod.Annotations)
	}
	c.wantClaim(t, m, v1alpha1.ClaimOpen)
}

func (c *cluster) testClaimAgain(t *testing.T) {
	c.offer(t, "again", "StatefulSet", "db-0", "again")
	for range 2 {
		pod := owned("", "StatefulSet", "again")
		pod.Name = "db-0"
		c.create(t, pod)
		if pod.Annotations[v1alpha1.AnnotationMigration] != "id-again" || pod.Spec.Hostname != "db-0" {
			t.Errorf("annotations %v, host name %q", pod.Annotations, pod.Spec.Hostname)
		}
		c.remove(t, pod) // as if it had never been
	}
}

func (c *cluster) testClaimUnwritable(t *testing.T) {
	m := c.offer(t, "unwritable", "ReplicaSet", "web-abcde", "unwritable")
	var role rbacv1.ClusterRole
	if err := c.Get(t.Context(), types.NamespacedName{Name: "godwit-controller"}, &role); err != nil {
		t.Fatal(err)
	}
	rules := role.DeepCopy().Rules
	for i := range role.Rules {
		if role.Rules[i].Resources[0] == "podmigrations/status" {
			role.Rules[i].Verbs = []string{"get"}
		}
	}
	if err := c.Update(t.Context(), &role); err != nil {
		t.Fatal(err)
	}
	c.awaitRight(t, false)
	if err := c.Create(t.Context(), owned("web-", "ReplicaSet", "unwritable")); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "unwritable") {
		t.Errorf("create: %v", err)
	}
	c.wantClaim(t, m, v1alpha1.ClaimOpen)
	role.Rules = rules
	if err := c.Update(t.Context(), &role); err != nil {
		t.Fatal(err)
	}
	c.awaitRight(t, true)
	pod := owned("web-", "ReplicaSet", "unwritable")
	c.create(t, pod)
	wantArrival(t, pod)
}

// awaitRight waits for the API server to know whether the controller may claim.
func (c *cluster) awaitRight(t *testing.T, want bool) {
	t.Helper()
	eventually(t, "rights change", func(ctx context.Context) error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               controllerUser,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "godwit.dev", Resource: "podmigrations", Subresource: "status", Verb: "patch", Namespace: "shop"},
		}}
		if err := c.Create(ctx, review); err != nil {
			return err
		}
		if review.Status.Allowed != want {
			return fmt.Errorf("allowed: %v", review.Status.Allowed)
		}
		return nil
	})
}

// wantPutOff evicts a pod in vain, and wants to be told why.
func (c *cluster) wantPutOff(t *testing.T, pod *corev1.Pod, why string) {
	t.Helper()
	err := c.evict(t.Context(), pod)
	if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), why) {
		t.Fatalf("eviction of %s: %v, want too many requests: %s", pod.Name, err, why)
	}
	if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds <= 0 {
		t.Errorf("it does not say when to ask again: %v", err)
	}
}

func (c *cluster) testEviction(t *testing.T) {
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "budget"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "evicted"}}},
	}
	c.create(t, budget)
	pod := c.pod(t, "evicted", "n1", func(p *corev1.Pod) { p.Labels["app"] = "evicted" })
	c.warnings.take()
	if err := c.evict(t.Context(), pod, metav1.DryRunAll); err != nil && !apierrors.IsTooManyRequests(err) {
		t.Fatal(err) // the budget, which has no controller here, may refuse it
	}
	if w := strings.Join(c.warnings.take(), ""); !strings.Contains(w, "would be moved") {
		t.Errorf("the dry run warns %q", w)
	}
	c.wantDrains(t, "n1", 0)

	c.wantPutOff(t, pod, "is being moved")
	c.wantPutOff(t, pod, "drain-"+string(pod.UID)+"-1: Pending")
	m := c.wantDrains(t, "n1", 1)[0]
	if m.Spec.PodName != "evicted" || m.Spec.TargetNode != "" || m.Namespace != "shop" || m.Name != "drain-"+string(pod.UID)+"-1" || m.Spec.KeepSourceOnFailure == nil || !*m.Spec.KeepSourceOnFailure {
		t.Errorf("it asks for %+v of %s/%s", m.Spec, m.Namespace, m.Name)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(budget), budget); err != nil || len(budget.Status.DisruptedPods) != 0 {
		t.Errorf("the budget counts a disruption: %+v, %v", budget.Status, err)
	}
	c.end(t, &m, v1alpha1.PhaseSucceeded, time.Now())
	c.wantPutOff(t, pod, "about to be removed")
	c.remove(t, pod) // as the node does
	if err := c.evict(t.Context(), pod); !apierrors.IsNotFound(err) {
		t.Errorf("eviction of what has moved: %v", err)
	}
}

func (c *cluster) testLimit(t *testing.T) {
	pods := make([]*corev1.Pod, 12)
	var evicting sync.WaitGroup
	all := make(chan struct{}) // closed when all may begin
	for i := range pods {
		pods[i] = c.pod(t, fmt.Sprintf("limit-%d", i), "n2")
	}
	for _, pod := range pods {
		evicting.Go(func() {
			<-all
			for range 3 {
				if err := c.evict(t.Context(), pod); !apierrors.IsTooManyRequests(err) {
					t.Errorf("eviction of %s: %v", pod.Name, err)
				}
			}
		})
	}
	close(all)
	evicting.Wait()
	for moved := range pods {
		var m *v1alpha1.PodMigration
		all := c.wantDrains(t, "n2", min(moved+2, len(pods)))
		for i := range all {
			if !all[i].Status.Phase.Over() {
				m = &all[i]
			}
		}
		c.end(t, m, v1alpha1.PhaseSucceeded, time.Now())
		for i, pod := range pods {
			if pod != nil && pod.Name == m.Spec.PodName {
				c.remove(t, pod)
				pods[i] = nil
			}
		}
		for _, pod := range pods {
			if pod != nil {
				c.wantPutOff(t, pod, "")
			}
		}
	}
}

func (c *cluster) testFailures(t *testing.T) {
	pod := c.pod(t, "failing", "n3")
	for attempt := range 2 {
		// After a failure its pause may not be over at once.
		eventually(t, "attempt", func(ctx context.Context) error {
			c.wantPutOff(t, pod, "moved")
			if all, err := c.drains(ctx, "n3"); err != nil || len(all) != attempt+1 {
				return fmt.Errorf("%d drains, %w", len(all), errors.Join(err))
			}
			return nil
		})
		for _, m := range c.wantDrains(t, "n3", attempt+1) {
			if !m.Status.Phase.Over() {
				c.end(t, &m, v1alpha1.PhaseFailed, time.Now())
			}
		}
	}
	c.wantPutOff(t, pod, "no node has room")
	c.wantDrains(t, "n3", 2)
	pod.Annotations = map[string]string{v1alpha1.AnnotationDrainOnFailure: v1alpha1.DrainOnFailureEvict}
	if err := c.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.evict(t.Context(), pod), c.gone(t.Context(), pod)); err != nil {
		t.Error(err)
	}
}

func (c *cluster) testUntouched(t *testing.T) {
	for _, pod := range []*corev1.Pod{
		c.pod(t, "plain", "n4", func(p *corev1.Pod) { p.Labels = nil }),
		c.pod(t, "classless", "n4", func(p *corev1.Pod) { p.Spec.RuntimeClassName = nil }),
	} {
		if err := errors.Join(c.evict(t.Context(), pod), c.gone(t.Context(), pod)); err != nil {
			t.Error(err)
		}
	}
	c.wantDrains(t, "n4", 0)
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
