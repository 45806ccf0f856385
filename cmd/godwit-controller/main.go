// Command godwit-controller is what a cluster needs of Godwit once: it signs the nodes' certificates and serves admission webhooks.
package main

import (
	"fmt"
	"os"

	"godwit.dev/godwit/clustercontroller/cli"
)

func main() {
	if err := cli.Controller().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "godwit-controller:", err)
		os.Exit(1)
	}
}
