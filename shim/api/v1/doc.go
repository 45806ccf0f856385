// Package shimv1 is the ttrpc service by which the node daemon drives a pod's
// shim through a migration: messages and stubs generated from migration.proto,
// and the place of its socket. What the calls do is package shim's.
package shimv1

import "path/filepath"

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative migration.proto

// SocketDir is where the shims of a node listen, mode 0700.
const SocketDir = "/run/godwit/shim"

// SocketPath is the socket of the shim whose pod sandbox has this id.
func SocketPath(sandboxID string) string {
	return filepath.Join(SocketDir, sandboxID+".sock")
}

// Annotation names the migration whose destination a container is. The node
// daemon sets it on the containers it makes; with it, the shim restores where
// it would have created.
const Annotation = "godwit.dev/migration"
