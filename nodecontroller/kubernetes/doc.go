// Package kubernetes lets PodMigration objects drive a node's daemon. It watches
// the objects, takes up those whose pod runs on this node, has the daemon move
// the pod, has the cluster make the destination's pod, and writes down what
// happens. On the destination's node it clears away pods of migrations that came
// to nothing.
//
// It decides nothing about memory and processes: that is the daemon's, package
// nodecontroller. How the destination's pod looks is in package destination; the
// claims of owners' pods, and what concerns a cluster rather than a node, are in
// clustercontroller.
package kubernetes
