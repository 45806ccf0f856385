package admission

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// evictionHandler answers evictions.
type evictionHandler struct {
	decoder admission.Decoder
	live    client.Reader
	client  client.Client
	options Options
	now     func() time.Time

	// mu keeps evictions that come at once from each finding room on the node
	// that is only there for one. Between replicas ask does it.
	mu sync.Mutex
}

// Handle puts the eviction of a pod that is to be moved off until it has moved,
// and sees to its move. An eviction of which it cannot find out what pod it is
// of passes, as if there were no webhook.
func (h *evictionHandler) Handle(ctx context.Context, r admission.Request) admission.Response {
	eviction := &policyv1.Eviction{}
	if err := h.decoder.Decode(r, eviction); err != nil {
		return admission.Allowed("").WithWarnings("godwit: eviction: " + err.Error())
	}
	pod := &corev1.Pod{}
	if err := h.live.Get(ctx, types.NamespacedName{Namespace: r.Namespace, Name: r.Name}, pod); err != nil {
		if apierrors.IsNotFound(err) {
			return admission.Allowed("")
		}
		return admission.Allowed("").WithWarnings("godwit: whether the pod is to be moved is not known: " + err.Error())
	}
	if !wantsMove(pod) || otherPod(eviction, pod) {
		return admission.Allowed("")
	}
	v, err := verdict{}, error(nil)
	if uidOf(eviction) == nil {
		v, err = h.decideArrived(ctx, pod)
	}
	if err == nil && v.action != gone {
		v, err = h.decide(ctx, pod, dryRun(r, eviction))
	}
	if err != nil {
		log.FromContext(ctx).Error(err, "eviction put off", "namespace", pod.Namespace, "pod", pod.Name)
		v = verdict{action: wait, why: "the pod is to be moved: " + err.Error()}
	}
	return answer(pod, v, dryRun(r, eviction))
}

// decide judges, and asks for the migration if there is to be one.
func (h *evictionHandler) decide(ctx context.Context, pod *corev1.Pod, dry bool) (verdict, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var of, drains v1alpha1.PodMigrationList
	if err := h.live.List(ctx, &of, client.InNamespace(pod.Namespace)); err != nil {
		return verdict{}, fmt.Errorf("migrations of the namespace: %w", err)
	}
	if err := h.live.List(ctx, &drains, client.HasLabels{v1alpha1.LabelDrain}); err != nil {
		return verdict{}, fmt.Errorf("drains of the cluster: %w", err)
	}
	v := judge(pod, of.Items, drains.Items, h.now(), h.options)
	if v.action != move || dry {
		return v, nil
	}
	return v, h.ask(ctx, newDrain(pod, v.attempt))
}

// ask makes the PodMigration. If another replica has made one for the same node
// meanwhile and they are too many, this one is taken back: the next eviction asks
// again. Both may do so, none stays.
func (h *evictionHandler) ask(ctx context.Context, m *v1alpha1.PodMigration) error {
	err := h.client.Create(ctx, m)
	if apierrors.IsAlreadyExists(err) {
		return nil // by another replica, for the same pod
	}
	if err != nil {
		return fmt.Errorf("PodMigration %s: %w", m.Name, err)
	}
	node := sourceNode(m)
	var drains v1alpha1.PodMigrationList
	if err := h.live.List(ctx, &drains, client.HasLabels{v1alpha1.LabelDrain}); err != nil {
		return fmt.Errorf("drains of the cluster: %w", err)
	}
	if active(node, drains.Items) <= h.options.PerNode {
		log.FromContext(ctx).Info("pod is moved instead of evicted", "namespace", m.Namespace, "pod", m.Spec.PodName, "node", node, "podMigration", m.Name)
		return nil
	}
	if err := h.client.Delete(ctx, m, client.Preconditions{UID: &m.UID}); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("PodMigration %s, one too many: %w", m.Name, err)
	}
	return fmt.Errorf("more than %d of node %s's pods are being moved", h.options.PerNode, node)
}

// answer is what the API server is told. kubectl drain asks again after "too
// many requests", and goes on when the pod is no more.
func answer(pod *corev1.Pod, v verdict, dry bool) admission.Response {
	switch {
	case v.action == pass && v.why == "":
		return admission.Allowed("")
	case v.action == pass:
		return admission.Allowed("").WithWarnings("godwit: " + v.why)
	case dry: // to be put off would have who tries the drain wait for ever
		return admission.Allowed("").WithWarnings("godwit: the pod would be moved, not evicted: " + v.why)
	case v.action == gone:
		err := apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
		err.ErrStatus.Message = fmt.Sprintf("pod %s/%s is not evicted: %s", pod.Namespace, pod.Name, v.why)
		return refused(err)
	}
	err := apierrors.NewTooManyRequests(fmt.Sprintf("pod %s/%s is not evicted: %s", pod.Namespace, pod.Name, v.why), retryAfter)
	err.ErrStatus.Code = http.StatusTooManyRequests
	return refused(err)
}

// otherPod says whether the eviction is of another pod of the name.
func otherPod(e *policyv1.Eviction, pod *corev1.Pod) bool {
	uid := uidOf(e)
	return uid != nil && *uid != pod.UID
}

// uidOf is the UID of the pod that an eviction is of, nil if it gives only a name.
func uidOf(e *policyv1.Eviction) *types.UID {
	if o := e.DeleteOptions; o != nil && o.Preconditions != nil {
		return o.Preconditions.UID
	}
	return nil
}

// dryRun says whether nothing is to come of the request; kubectl says so in the
// eviction.
func dryRun(r admission.Request, e *policyv1.Eviction) bool {
	return r.DryRun != nil && *r.DryRun || e.DeleteOptions != nil && slices.Contains(e.DeleteOptions.DryRun, metav1.DryRunAll)
}
