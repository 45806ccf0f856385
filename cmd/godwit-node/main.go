// Command godwit-node is the node daemon.
package main

import (
	"fmt"
	"os"

	"godwit.dev/godwit/nodecontroller/cli"
)

func main() {
	if err := cli.Daemon().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "godwit-node:", err)
		os.Exit(1)
	}
}
