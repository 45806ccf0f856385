// Package cli is the commands of godwitctl and of godwit-node: flags, what is
// printed, exit codes. What the commands do is the daemon's, package
// nodecontroller's, which godwitctl reaches over a socket on its node.
package cli
