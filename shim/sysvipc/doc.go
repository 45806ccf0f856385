// Package sysvipc makes the System V IPC objects of a dumped pod again in the
// IPC namespace of its new sandbox: shared memory segments, semaphore sets and
// message queues, with their ids, keys, owners and content.
//
// CRIU restores them only into a namespace that it makes itself; the containers
// of a pod share the sandbox's, which is there already. What processes hold of
// them (attachments, undo lists) is CRIU's.
package sysvipc
