// Package kubectl proves kubectl's plugin on a real API server: kubectl finds it, it makes, shows, cancels and waits for
// PodMigrations. The nodes are names without machines, and the test plays what a node controller writes into the status:
// how pods are moved is proven elsewhere.
package kubectl
