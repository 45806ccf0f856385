package kubernetes

import (
	"context"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/obstacle"
	"godwit.dev/godwit/nodecontroller/podcheck"
	nodecheck "godwit.dev/godwit/nodecontroller/preflight"
)

// preflight reads the objects that package podcheck judges. What is in the pod's
// processes the daemon sees for itself.
type preflight struct {
	reader client.Reader
	node   string
}

// Check implements Preflight.
func (p *preflight) Check(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) (Plan, error) {
	storage, err := p.storage(ctx, pod)
	if err != nil {
		return Plan{}, err
	}
	result := podcheck.OfPod(pod, storage)
	plan := Plan{Node: m.Spec.TargetNode, LatePod: result.LatePod}
	findings := result.Findings
	if result.LatePod {
		found, err := p.late(ctx, pod, storage)
		if err != nil {
			return plan, err
		}
		findings = append(findings, found...)
	}
	switch {
	case plan.Node != "":
		found, err := p.target(ctx, pod, plan.Node, storage, len(obstacle.Refusals(findings)) == 0)
		if err != nil {
			return plan, err
		}
		findings = append(findings, found...)
	case len(obstacle.Refusals(findings)) == 0:
		if plan.Node, err = p.choose(ctx, m, pod, storage); err != nil {
			return plan, err
		}
	}
	for _, w := range obstacle.Warnings(findings) {
		plan.Warnings = append(plan.Warnings, w.Text)
	}
	return plan, obstacle.Error(pod.Namespace+"/"+pod.Name, plan.Node, findings)
}

// late judges whether the pod will be made again as it is, when the source's is gone.
func (p *preflight) late(ctx context.Context, pod *corev1.Pod, storage podcheck.Storage) ([]obstacle.Finding, error) {
	others := new(corev1.PodList)
	if err := p.reader.List(ctx, others, client.InNamespace(pod.Namespace)); err != nil {
		return nil, fmt.Errorf("pods of namespace %s: %w", pod.Namespace, err)
	}
	found := podcheck.OfLateVolumes(pod, storage, pointers(others))
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return found, nil // this program makes it
	}
	hooks := new(admissionregistrationv1.MutatingWebhookConfiguration)
	err := p.reader.Get(ctx, client.ObjectKey{Name: v1alpha1.WebhookConfiguration}, hooks)
	if client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("webhook %s: %w", v1alpha1.WebhookClaim, err)
	}
	var set *appsv1.StatefulSet
	if owner.Kind == kindStatefulSet {
		set = new(appsv1.StatefulSet)
		if err := p.reader.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: owner.Name}, set); err != nil {
			return nil, fmt.Errorf("%s %s, which owns pod %s: %w", owner.Kind, owner.Name, pod.Name, err)
		}
	}
	return append(found, podcheck.OfLateOwner(pod, hooks.Webhooks, set)...), nil
}

// target judges the node that was asked for. If it is not Ready for the moment, a pod
// that is movable waits for it.
func (p *preflight) target(ctx context.Context, pod *corev1.Pod, name string, storage podcheck.Storage, movable bool) ([]obstacle.Finding, error) {
	node := new(corev1.Node)
	err := p.reader.Get(ctx, client.ObjectKey{Name: name}, node)
	if apierrors.IsNotFound(err) {
		return []obstacle.Finding{obstacle.Refuse("there is no node %s", name)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	if why, is := unready(node, time.Now()); is && movable {
		return nil, notReady(name, why)
	}
	self := new(corev1.Node)
	if err := p.reader.Get(ctx, client.ObjectKey{Name: p.node}, self); err != nil {
		return nil, fmt.Errorf("node %s: %w", p.node, err)
	}
	pods := new(corev1.PodList)
	if err := p.reader.List(ctx, pods, client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("spec.nodeName", name)}); err != nil {
		return nil, fmt.Errorf("pods of node %s: %w", name, err)
	}
	return podcheck.OfNode(pod, podcheck.Node{Node: node, Pods: pointers(pods), Unfit: unfit(self, node)}, storage), nil
}

// choose finds a node.
func (p *preflight) choose(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod, storage podcheck.Storage) (string, error) {
	nodes, pods := new(corev1.NodeList), new(corev1.PodList)
	if err := p.reader.List(ctx, nodes); err != nil {
		return "", fmt.Errorf("nodes: %w", err)
	}
	if err := p.reader.List(ctx, pods); err != nil {
		return "", fmt.Errorf("pods: %w", err)
	}
	on := make(map[string][]*corev1.Pod)
	for _, other := range pointers(pods) {
		on[other.Spec.NodeName] = append(on[other.Spec.NodeName], other)
	}
	self := new(corev1.Node)
	for i := range nodes.Items {
		if nodes.Items[i].Name == p.node {
			self = &nodes.Items[i]
		}
	}
	var candidates []podcheck.Node
	mayBeReady := false
	for i := range nodes.Items {
		n := &nodes.Items[i]
		if _, is := unready(n, time.Now()); is && n.Name != p.node {
			mayBeReady = true
		}
		candidates = append(candidates, podcheck.Node{Node: n, Pods: on[n.Name], Unfit: unfit(self, n)})
	}
	name, _, err := podcheck.ChooseNode(pod, m.Spec, candidates, storage)
	if err != nil {
		err = fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if err != nil && mayBeReady {
		return "", &notYetError{err}
	}
	return name, err
}

// unfit is why one node's daemon cannot take in what the other's sends, as far as
// their Node objects tell: the daemons look again.
func unfit(from, to *corev1.Node) string {
	source, known, err := nodefacts.Of(from)
	if err != nil || !known {
		return ""
	}
	destination, known, err := nodefacts.Of(to)
	if err != nil || !known {
		return ""
	}
	for _, f := range nodefacts.Compare(source.Peer(), destination.Peer()) {
		if f.Status == nodecheck.Missing {
			return f.Detail
		}
	}
	return ""
}

// storage reads the pod's claims and their volumes.
func (p *preflight) storage(ctx context.Context, pod *corev1.Pod) (podcheck.Storage, error) {
	s := podcheck.Storage{Claims: map[string]*corev1.PersistentVolumeClaim{}, Volumes: map[string]*corev1.PersistentVolume{}}
	for _, v := range pod.Spec.Volumes {
		name := claimOf(pod, &v)
		if name == "" {
			continue
		}
		claim := new(corev1.PersistentVolumeClaim)
		if err := p.reader.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, claim); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return s, fmt.Errorf("claim %s: %w", name, err)
		}
		s.Claims[name] = claim
		if claim.Spec.VolumeName == "" {
			continue
		}
		volume := new(corev1.PersistentVolume)
		if err := p.reader.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, volume); err != nil {
			if apierrors.IsNotFound(err) {
				continue
			}
			return s, fmt.Errorf("volume %s: %w", claim.Spec.VolumeName, err)
		}
		s.Volumes[volume.Name] = volume
	}
	return s, nil
}

// claimOf is the claim behind a pod's volume, also one that was made for this pod;
// empty if there is none.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

func pointers(l *corev1.PodList) []*corev1.Pod {
	out := make([]*corev1.Pod, len(l.Items))
	for i := range l.Items {
		out[i] = &l.Items[i]
	}
	return out
}
