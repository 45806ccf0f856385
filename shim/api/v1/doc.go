// Package shimv1 is the ttrpc service by which the node daemon drives a pod's
// shim through a migration: messages and stubs generated from migration.proto,
// and the place of its socket. What the calls do is package shim's.
package shimv1

import (
	"path/filepath"
	"strconv"
)

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

// Tree is one of the file trees that travel beside the pages.
type Tree uint8

const (
	// TreeImages holds CRIU's images of a container.
	TreeImages Tree = iota
	// TreeRootfs is a container's root file system: what differs from its image.
	TreeRootfs
	// TreeShm is the sandbox's /dev/shm; it travels with container 0.
	TreeShm
	// TreeVolume is a volume of the pod; the number of the volume stands in the
	// place of a container's.
	TreeVolume
	// TreeLeft is no tree: lists of pages that are left at the source, package demand's.
	TreeLeft
)

// FetchSocket is where the fault server of a container waits for the pages that were left at
// the source, in the directory of the migration's store.
func FetchSocket(store string, container uint16) string {
	return filepath.Join(store, "fetch-"+strconv.Itoa(int(container))+".sock")
}

// Channel is the wire channel on which a container's tree travels.
func Channel(container uint16, tree Tree) uint32 { return uint32(container)<<8 | uint32(tree) }

// SplitChannel is the inverse of Channel.
func SplitChannel(channel uint32) (container uint16, tree Tree) {
	return uint16(channel >> 8), Tree(channel)
}
