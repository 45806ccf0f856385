package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	jsonpatch "gomodules.xyz/jsonpatch/v2"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/destination"
)

// claimTries is how often a claim that somebody else wrote to is read again.
// A node daemon that reports progress is somebody else too.
const claimTries = 10

// retryAfter is how soon who was put off asks again, seconds. client-go does so
// ten times before its caller, and kubectl's user, hears of it.
const retryAfter = 3

// claimHandler answers the creation of pods.
type claimHandler struct {
	decoder admission.Decoder
	live    client.Reader
	client  client.Client
}

// Handle makes the pod a migration's destination if one waits for it. When that
// cannot be found out or written down the pod is refused, and its owner's
// controller makes it again later: a fresh copy in its place must not start.
func (h *claimHandler) Handle(ctx context.Context, r admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(r, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("pod: %w", err))
	}
	if r.DryRun != nil && *r.DryRun {
		return admission.Allowed("")
	}
	m, err := h.claim(ctx, pod, r.Namespace)
	if err != nil {
		log.FromContext(ctx).Error(err, "pod refused", "namespace", r.Namespace, "pod", nameOf(pod))
		return unavailable(err)
	}
	if m == nil {
		return admission.Allowed("")
	}
	patches, err := arrival(pod, m, h.hostname(ctx, m))
	if err != nil {
		return unavailable(err)
	}
	log.FromContext(ctx).Info("pod claimed", "namespace", r.Namespace, "pod", nameOf(pod),
		"podMigration", m.Name, "migration", m.Status.Migration, "node", m.Status.DestinationNode)
	return admission.Patched("destination of PodMigration "+m.Name, patches...)
}

// claim finds the migration that the pod is the destination of, and writes down
// that there is one now. It returns nil if there is no such migration.
func (h *claimHandler) claim(ctx context.Context, pod *corev1.Pod, namespace string) (*v1alpha1.PodMigration, error) {
	var err error
	for range claimTries {
		var list v1alpha1.PodMigrationList
		if err := h.live.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("migrations of the namespace: %w", err)
		}
		m := claimable(pod, list.Items)
		if other := awaited(pod, list.Items); m == nil && other != nil {
			return nil, fmt.Errorf("PodMigration %s waits for the pod of its destination, which another request is making", other.Name)
		}
		if m == nil {
			back, err := h.returning(ctx, pod, list.Items)
			if err == nil && back != nil {
				err = fmt.Errorf("PodMigration %s was broken off, and pod %s is to be its owner's again", back.Name, back.Status.SourcePod.Name)
			}
			return nil, err
		}
		if m.Status.Claim == v1alpha1.ClaimTaken {
			return m, nil
		}
		before := m.DeepCopy()
		m.Status.Claim = v1alpha1.ClaimTaken
		err = h.client.Status().Patch(ctx, m, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		switch {
		case err == nil:
			return m, nil
		case !apierrors.IsConflict(err) && !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("claim of PodMigration %s: %w", m.Name, err)
		}
	}
	return nil, fmt.Errorf("claims of the namespace's PodMigrations, %d times: %w", claimTries, err)
}

// hostname is what the source's processes have seen; the source may be gone.
func (h *claimHandler) hostname(ctx context.Context, m *v1alpha1.PodMigration) string {
	source := &corev1.Pod{}
	key := types.NamespacedName{Namespace: m.Namespace, Name: m.Status.SourcePod.Name}
	if err := h.live.Get(ctx, key, source); err != nil || source.UID != m.Status.SourcePod.UID {
		source = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: m.Status.SourcePod.Name}}
	}
	return destination.Hostname(source)
}

// arrival is what changes the pod to m's destination. It is taken between two
// pods written alike: fields that this program does not know stay as they are.
func arrival(pod *corev1.Pod, m *v1alpha1.PodMigration, hostname string) ([]jsonpatch.JsonPatchOperation, error) {
	before, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	adapted := pod.DeepCopy()
	destination.Adapt(adapted, destination.Arrival{
		Migration: m.Status.Migration, PodMigration: m.Name, Node: m.Status.DestinationNode, Hostname: hostname, Images: imagesOf(m),
	})
	after, err := json.Marshal(adapted)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	patches, err := jsonpatch.CreatePatch(before, after)
	if err != nil {
		return nil, fmt.Errorf("pod: %w", err)
	}
	return patches, nil
}

// imagesOf are the source's own, which the destination has: what the owner's template
// names may be another image by now.
func imagesOf(m *v1alpha1.PodMigration) map[string]string {
	images := make(map[string]string, len(m.Status.Containers))
	for _, c := range m.Status.Containers {
		images[c.Name] = c.Image
	}
	return images
}

func nameOf(pod *corev1.Pod) string {
	if pod.Name != "" {
		return pod.Name
	}
	return pod.GenerateName + "*"
}

// unavailable refuses what may be asked for again.
func unavailable(err error) admission.Response {
	return refused(apierrors.NewServiceUnavailable(fmt.Sprintf(
		"whether the pod is a migration's destination is not known: %v: it can be created again later", err)))
}

func refused(err *apierrors.StatusError) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: &err.ErrStatus}}
}
