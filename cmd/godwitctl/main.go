// Command godwitctl moves pods and tells of their migrations. Called kubectl-godwit
// it is kubectl's plugin: it asks a cluster, and not the node that it runs on.
package main

import (
	"os"
	"path/filepath"

	"godwit.dev/godwit/nodecontroller/cli"
	"godwit.dev/godwit/nodecontroller/kubectl"
)

func main() {
	if filepath.Base(os.Args[0]) == kubectl.Program {
		os.Exit(kubectl.Run(os.Args[1:]))
	}
	os.Exit(cli.Run(os.Args[1:]))
}
