// Command godwitctl moves pods and tells of their migrations.
package main

import (
	"os"

	"godwit.dev/godwit/nodecontroller/cli"
)

func main() { os.Exit(cli.Run(os.Args[1:])) }
