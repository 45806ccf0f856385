// Package nodecontroller is the node daemon: it moves pods of its node to its
// peers, and takes in theirs. A move is two state machines that talk over the
// peer service: the source's (outgoing.go) and the destination's (incoming.go).
// Each writes what it must not forget into a journal, and both recover from it
// (recovery.go) whenever a daemon, or a node, restarts.
//
// The order of a move, and who decides: the source prepares the destination,
// has its shim copy memory, cut over, and asks the destination to restore and
// hold the pod. The destination's answer is its vote. Then the source's shim
// commits: that is the one decision. Before it, whatever fails, the source runs
// on and the destination is cleaned; after it, only the destination may run, and
// the source repeats the decision until the destination has it.
//
// It leaves to the shims what happens to processes, to pagestream how memory
// travels and is stored, to cri what a pod is, and to the command line how all
// this looks to an operator.
package nodecontroller
