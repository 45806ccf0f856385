package podcheck

import (
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

func TestALatePodMovesOnlyIfItsOwnerMakesItAgainAsItIs(t *testing.T) {
	fail, ignore := admissionregistrationv1.Fail, admissionregistrationv1.Ignore
	claiming := func(p *admissionregistrationv1.FailurePolicyType) []admissionregistrationv1.MutatingWebhook {
		return []admissionregistrationv1.MutatingWebhook{{Name: "other.example.com"}, {Name: v1alpha1.WebhookClaim, FailurePolicy: p}}
	}
	set := func(revision string) *appsv1.StatefulSet {
		return &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Status: appsv1.StatefulSetStatus{UpdateRevision: revision}}
	}
	deleted := set("web-1")
	now := metav1.NewTime(time.Unix(1, 0))
	deleted.DeletionTimestamp = &now
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: "web-1"}}}
	for _, k := range []struct {
		name  string
		hooks []admissionregistrationv1.MutatingWebhook
		set   *appsv1.StatefulSet
		says  string
	}{
		{"of a StatefulSet", claiming(&fail), set("web-1"), ""},
		{"of another owner", claiming(&fail), nil, ""},
		{"the API server's default policy", claiming(nil), nil, ""},
		{"its StatefulSet's status is not written yet", claiming(&fail), set(""), ""},
		{"without a webhook", nil, set("web-1"), "install godwit-controller"},
		{"with one that need not answer", claiming(&ignore), nil, "install godwit-controller"},
		{"its StatefulSet is being updated", claiming(&fail), set("web-2"), "another revision of its template (web-2, not web-1)"},
		{"its StatefulSet is being deleted", claiming(&fail), deleted, "is being deleted"},
	} {
		found := obstacle.Refusals(OfLateOwner(pod, k.hooks, k.set))
		if (len(found) == 0) != (k.says == "") || len(found) > 0 && !strings.Contains(found[0].Text, k.says) {
			t.Errorf("%s: %v", k.name, found)
		}
	}
}
