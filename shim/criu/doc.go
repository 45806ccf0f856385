// Package criu drives CRIU through runc for one container: the dump of a
// running container, held at two stages, and the restore of one, held one step
// before its processes run. It writes CRIU's configuration, answers its
// notifications, and turns its logs into errors.
//
// It leaves the freezer, the pages and the decision to its caller, package
// shim.
package criu
