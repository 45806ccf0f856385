// Package nodev1 is the ttrpc service of the node daemon for godwitctl:
// messages and stubs generated from node.proto. What the calls do is package
// nodecontroller's.
package nodev1

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-ttrpc_out=. --go-ttrpc_opt=paths=source_relative node.proto

// Socket is where the daemon listens unless its configuration says otherwise.
const Socket = "/run/godwit/node.sock"
