package kubernetes

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// The cache has every PodMigration of the cluster, and most of them are over: little of
// those is kept, and they are not looked through for each pod that changes.

// slim leaves out of the cache what nobody reads there of a migration that is over.
// What is written of one is read live.
func slim(object any) (any, error) {
	m, ok := object.(*v1alpha1.PodMigration)
	if !ok {
		return object, nil
	}
	m.ManagedFields = nil
	if !m.Status.Phase.Over() {
		return m, nil
	}
	kept := &v1alpha1.PodMigration{
		TypeMeta: m.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion, Generation: m.Generation,
			CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, Finalizers: m.Finalizers,
		},
		Spec:   v1alpha1.PodMigrationSpec{PodName: m.Spec.PodName},
		Status: m.Status,
	}
	s := &kept.Status
	s.Conditions, s.Rounds, s.Containers = nil, nil, nil
	s.Migration, s.Engine, s.EngineReason, s.Compression, s.StopReason = "", "", "", "", ""
	s.StartTime, s.CommitTime, s.CompletionTime, s.Total, s.Downtime = nil, nil, nil, nil, nil
	if !hasFinalizer(m) { // else it may be why a session is broken off that is not over yet
		s.Message, s.Owner = "", nil
	}
	return kept, nil
}

// unfinishedOf is the index of the PodMigrations that are not over by the pod that they
// move.
const unfinishedOf = "unfinished of pod"

func podOfUnfinished(o client.Object) []string {
	m, ok := o.(*v1alpha1.PodMigration)
	if !ok || m.Status.Phase.Over() {
		return nil
	}
	return []string{m.Spec.PodName}
}

// migrationsOf are the PodMigrations that a pod concerns: those that wait for it.
func (c *Controller) migrationsOf(ctx context.Context, pod client.Object) []ctrl.Request {
	of := new(v1alpha1.PodMigrationList)
	if err := c.client.List(ctx, of, client.InNamespace(pod.GetNamespace()), client.MatchingFields{unfinishedOf: pod.GetName()}); err != nil {
		return nil
	}
	var requests []ctrl.Request
	for i := range of.Items {
		requests = append(requests, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&of.Items[i])})
	}
	return requests
}

// arrivalOf is the pod that a PodMigration concerns on the destination, of which
// something may be to do yet.
func arrivalOf(_ context.Context, o client.Object) []ctrl.Request {
	m, ok := o.(*v1alpha1.PodMigration)
	if !ok || m.Status.DestinationPod == nil || m.Status.Phase.Over() && !hasFinalizer(m) {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: m.Namespace, Name: m.Status.DestinationPod.Name}}}
}
