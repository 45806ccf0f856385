package podcheck

import (
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/obstacle"
)

// OfLateOwner judges whether the owner of a pod that is made again only after the
// commit will make what can be restored: nothing can be put right then. set is the
// owner if that is a StatefulSet, else nil.
func OfLateOwner(pod *corev1.Pod, webhooks []admissionregistrationv1.MutatingWebhook, set *appsv1.StatefulSet) []obstacle.Finding {
	var found []obstacle.Finding
	if !slices.ContainsFunc(webhooks, mustClaim) {
		found = append(found, obstacle.Refuse("its owner would make the destination's pod, and no webhook %s that must answer would have it restored: install godwit-controller",
			v1alpha1.WebhookClaim))
	}
	if set == nil {
		return found
	}
	if of := pod.Labels[appsv1.ControllerRevisionHashLabelKey]; set.Status.UpdateRevision != "" && of != set.Status.UpdateRevision {
		found = append(found, obstacle.Refuse("StatefulSet %s would make it again from another revision of its template (%s, not %s): finish the update first",
			set.Name, set.Status.UpdateRevision, orUnknown(of)))
	}
	if !set.DeletionTimestamp.IsZero() {
		found = append(found, obstacle.Refuse("StatefulSet %s is being deleted and would not make it again", set.Name))
	}
	return found
}

// mustClaim says whether a webhook is the one that claims pods, and pods that it was
// not asked about are not made.
func mustClaim(w admissionregistrationv1.MutatingWebhook) bool {
	return w.Name == v1alpha1.WebhookClaim && (w.FailurePolicy == nil || *w.FailurePolicy == admissionregistrationv1.Fail)
}
