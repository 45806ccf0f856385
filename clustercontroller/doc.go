// Package clustercontroller is godwit-controller: what a cluster needs once,
// beside the daemon of each node. It assembles a controller-runtime manager of
// its parts, each a package below this one with one function that adds it:
//
//   - authority: the cluster's certificate authority, kept in a Secret
//   - signing: signs the nodes' certificates with it (leader only)
//   - serving: gives the webhook server its certificate, and the API server
//     the means to trust it
//   - admission: the webhooks themselves, and the removal of drains that have
//     ended (leader only)
//   - attendance: PodMigrations that no node attends to (leader only)
//
// Any number of replicas may run: one leads, all serve webhooks. Moving pods is
// the node daemons' matter, in nodecontroller/kubernetes.
package clustercontroller
