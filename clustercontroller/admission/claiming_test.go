package admission_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

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
