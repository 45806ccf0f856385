// Command containerd-shim-godwit-v2 is the containerd runtime shim
// io.containerd.godwit.v2.
package main

import (
	"context"
	"os"

	containerdshim "github.com/containerd/containerd/v2/pkg/shim"

	"godwit.dev/godwit/shim"
)

func main() {
	shim.RunHelper(os.Args)
	shim.Register()
	containerdshim.Run(context.Background(), shim.NewManager())
}
