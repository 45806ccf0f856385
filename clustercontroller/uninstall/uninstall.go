// Package uninstall takes Godwit off a cluster's nodes before its objects are
// removed: it stops the node daemons, runs `godwit-node uninstall` on each node
// that had one, and removes what the controller made of its own accord. What was
// applied is removed by whoever applied it: Helm, or kubectl.
package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	certv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/clustercontroller/authority"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
)

// ErrInUse is wrapped where pods or migrations still need Godwit.
var ErrInUse = errors.New("the cluster still needs Godwit")

// annotationNodes, on the DaemonSet, are the nodes that had its pods when it was
// stopped: an uninstall that failed halfway goes on with them.
const annotationNodes = "godwit.dev/uninstall-nodes"

// stopped is a node selector that no node fits.
var stopped = map[string]string{"godwit.dev/uninstalled": "true"}

// Labels are on the pods that uninstall, one for each node.
var Labels = map[string]string{"app.kubernetes.io/name": "godwit", "app.kubernetes.io/component": "uninstall"}

// Options say what there is to take away. Every field but Force must be set.
type Options struct {
	Namespace string
	// DaemonSet and Deployment are the names of the node daemons and of the
	// controller, Webhooks that of its webhook configurations, Lease its lease.
	DaemonSet, Deployment, Webhooks, Lease string
	// Signer signed the nodes' certificates.
	Signer string
	// Pod is what uninstalls on one node; name and node are put in.
	Pod corev1.PodSpec
	// Force: pods of the runtime and migrations are no reason not to.
	Force bool
}

// Run uninstalls. It may fail halfway, name what is in the way, and be run again.
func Run(ctx context.Context, c client.WithWatch, o Options, log *slog.Logger) error {
	u := &uninstaller{c, o, log}
	if !o.Force {
		if err := u.checkUse(ctx); err != nil {
			return err
		}
	}
	// Nobody answers webhooks for long, and the pods below are to be admitted.
	if err := u.removeWebhooks(ctx); err != nil {
		return err
	}
	nodes, err := u.stopDaemons(ctx)
	if err != nil {
		return err
	}
	if err := u.uninstallNodes(ctx, nodes); err != nil {
		return err
	}
	if err := u.removeFacts(ctx, nodes); err != nil {
		return err
	}
	if err := u.stopController(ctx); err != nil {
		return err
	}
	return u.removeMade(ctx)
}

type uninstaller struct {
	client.WithWatch
	Options
	log *slog.Logger
}

// checkUse refuses while anything needs Godwit.
func (u *uninstaller) checkUse(ctx context.Context) error {
	var in []string
	var pods corev1.PodList
	if err := u.List(ctx, &pods); err != nil {
		return fmt.Errorf("pods of the cluster: %w", err)
	}
	for _, p := range pods.Items {
		if p.Spec.RuntimeClassName != nil && *p.Spec.RuntimeClassName == v1alpha1.RuntimeClass && !ended(p) {
			in = append(in, "pod "+p.Namespace+"/"+p.Name)
		}
	}
	var migrations v1alpha1.PodMigrationList
	if err := u.List(ctx, &migrations); err != nil && !meta.IsNoMatchError(err) {
		return fmt.Errorf("migrations of the cluster: %w", err)
	}
	for _, m := range migrations.Items {
		if slices.Contains(m.Finalizers, v1alpha1.Finalizer) {
			in = append(in, "migration "+m.Namespace+"/"+m.Name)
		}
	}
	if len(in) > 0 {
		return fmt.Errorf("%w for %s: remove them first, or uninstall with force", ErrInUse, strings.Join(in, ", "))
	}
	return nil
}

func ended(p corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func (u *uninstaller) removeWebhooks(ctx context.Context) error {
	name := metav1.ObjectMeta{Name: u.Webhooks}
	return u.remove(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: name}, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: name})
}

// stopDaemons ends the node daemons, and returns the nodes that they were on.
func (u *uninstaller) stopDaemons(ctx context.Context) ([]string, error) {
	var set appsv1.DaemonSet
	err := u.Get(ctx, types.NamespacedName{Namespace: u.Namespace, Name: u.DaemonSet}, &set)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("daemonset %s: %w", u.DaemonSet, err)
	}
	ours := client.MatchingLabels(set.Spec.Selector.MatchLabels)
	nodes, err := u.nodesOf(ctx, &set, ours)
	if err != nil {
		return nil, err
	}
	list, err := json.Marshal(nodes)
	if err != nil {
		return nil, err
	}
	before := set.DeepCopy()
	metav1.SetMetaDataAnnotation(&set.ObjectMeta, annotationNodes, string(list))
	set.Spec.Template.Spec.NodeSelector = stopped
	if err := u.Patch(ctx, &set, client.MergeFrom(before)); err != nil {
		return nil, fmt.Errorf("stop daemonset %s: %w", u.DaemonSet, err)
	}
	u.log.Info("waiting for the node daemons to stop", "nodes", nodes)
	return nodes, u.awaitPods(ctx, ours, func(all []corev1.Pod) bool { return len(all) == 0 })
}

// nodesOf are the nodes with pods of the set, and those that an earlier attempt
// has found.
func (u *uninstaller) nodesOf(ctx context.Context, set *appsv1.DaemonSet, ours client.MatchingLabels) ([]string, error) {
	var nodes []string
	if list := set.Annotations[annotationNodes]; list != "" {
		if err := json.Unmarshal([]byte(list), &nodes); err != nil {
			return nil, fmt.Errorf("annotation %s of daemonset %s: %w", annotationNodes, set.Name, err)
		}
	}
	var pods corev1.PodList
	if err := u.List(ctx, &pods, client.InNamespace(u.Namespace), ours); err != nil {
		return nil, fmt.Errorf("pods of daemonset %s: %w", set.Name, err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName != "" {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes), nil
}

// uninstallNodes runs one pod on each node, all at once, and returns when all of
// them have ended.
func (u *uninstaller) uninstallNodes(ctx context.Context, nodes []string) error {
	if err := u.removePods(ctx); err != nil { // of an earlier attempt
		return err
	}
	for _, node := range nodes {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: u.Namespace, GenerateName: "godwit-uninstall-", Labels: Labels},
			Spec:       *u.Pod.DeepCopy(),
		}
		pod.Spec.NodeName = node
		if err := u.Create(ctx, pod); err != nil {
			return fmt.Errorf("uninstall from node %s: %w", node, err)
		}
	}
	var pods []corev1.Pod
	err := u.awaitPods(ctx, client.MatchingLabels(Labels), func(all []corev1.Pod) bool {
		pods = all
		return !slices.ContainsFunc(all, func(p corev1.Pod) bool { return !ended(p) })
	})
	errs := []error{err}
	for _, p := range pods {
		errs = append(errs, u.outcome(p))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return u.removePods(ctx)
}

// outcome is what a pod says of its node.
func (u *uninstaller) outcome(p corev1.Pod) error {
	message := p.Status.Message
	for _, s := range p.Status.ContainerStatuses {
		switch {
		case s.State.Terminated != nil:
			message += s.State.Terminated.Message
		case s.State.Waiting != nil:
			message += s.State.Waiting.Reason + " " + s.State.Waiting.Message
		}
	}
	if p.Status.Phase == corev1.PodSucceeded {
		u.log.Info("uninstalled", "node", p.Spec.NodeName, "said", message)
		return nil
	}
	return fmt.Errorf("node %s: %s: %s", p.Spec.NodeName, p.Status.Phase, strings.TrimSpace(message))
}

func (u *uninstaller) removePods(ctx context.Context) error {
	err := u.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(u.Namespace), client.MatchingLabels(Labels))
	if err != nil {
		return fmt.Errorf("pods that uninstall: %w", err)
	}
	return u.awaitPods(ctx, client.MatchingLabels(Labels), func(all []corev1.Pod) bool { return len(all) == 0 })
}

// removeFacts removes what the daemons told of their nodes.
func (u *uninstaller) removeFacts(ctx context.Context, nodes []string) error {
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"`+nodefacts.Annotation+`":null}}}`))
	for _, name := range nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := u.Status().Patch(ctx, node, patch); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("facts of node %s: %w", name, err)
		}
	}
	return nil
}

// stopController ends the controller, which would make again what it made.
func (u *uninstaller) stopController(ctx context.Context) error {
	var d appsv1.Deployment
	err := u.Get(ctx, types.NamespacedName{Namespace: u.Namespace, Name: u.Deployment}, &d)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deployment %s: %w", u.Deployment, err)
	}
	before := d.DeepCopy()
	d.Spec.Replicas = new(int32)
	if err := u.Patch(ctx, &d, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("stop deployment %s: %w", u.Deployment, err)
	}
	return u.awaitPods(ctx, client.MatchingLabels(d.Spec.Selector.MatchLabels), func(all []corev1.Pod) bool { return len(all) == 0 })
}

// removeMade removes what nobody applied: the controller made it.
func (u *uninstaller) removeMade(ctx context.Context) error {
	var requests certv1.CertificateSigningRequestList
	if err := u.List(ctx, &requests); err != nil {
		return fmt.Errorf("certificate requests: %w", err)
	}
	for _, r := range requests.Items {
		if r.Spec.SignerName != u.Signer || !strings.HasSuffix(r.Spec.Username, ":"+v1alpha1.NodeServiceAccount) {
			continue
		}
		if err := u.remove(ctx, &r); err != nil {
			return err
		}
	}
	ca := metav1.ObjectMeta{Namespace: u.Namespace, Name: authority.Name}
	return u.remove(ctx, &corev1.Secret{ObjectMeta: ca}, &corev1.ConfigMap{ObjectMeta: ca},
		&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: u.Namespace, Name: u.Lease}})
}

func (u *uninstaller) remove(ctx context.Context, all ...client.Object) error {
	for _, o := range all {
		if err := u.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("remove %T %s: %w", o, o.GetName(), err)
		}
	}
	return nil
}

// awaitPods returns when the namespace's pods that fit are as wanted.
func (u *uninstaller) awaitPods(ctx context.Context, fit client.MatchingLabels, wanted func([]corev1.Pod) bool) error {
	for {
		var pods corev1.PodList
		if err := u.List(ctx, &pods, client.InNamespace(u.Namespace), fit); err != nil {
			return fmt.Errorf("pods: %w", err)
		}
		if wanted(pods.Items) {
			return nil
		}
		events, err := u.Watch(ctx, &corev1.PodList{}, &client.ListOptions{
			Namespace: u.Namespace, LabelSelector: labels.SelectorFromSet(labels.Set(fit)),
			Raw: &metav1.ListOptions{ResourceVersion: pods.ResourceVersion},
		})
		if err != nil {
			return fmt.Errorf("pods: %w", err)
		}
		select {
		case <-events.ResultChan():
		case <-ctx.Done():
		}
		events.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("pods with %s: %w", labels.FormatLabels(fit), context.Cause(ctx))
		}
	}
}
