// Package peerv1 is the ttrpc service that node daemons offer each other:
// messages and stubs generated from peer.proto. Who may call it, and what the
// calls do, is package nodecontroller's.
package peerv1

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative peer.proto
