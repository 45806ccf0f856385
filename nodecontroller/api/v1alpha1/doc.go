// Package v1alpha1 is the API group godwit.dev/v1alpha1: PodMigration, the
// object by which a cluster's users ask for a pod to be moved and see what
// becomes of it. It holds the types and their names only; what is done about
// them is in nodecontroller/kubernetes and clustercontroller.
//
// +kubebuilder:object:generate=true
// +groupName=godwit.dev
package v1alpha1
