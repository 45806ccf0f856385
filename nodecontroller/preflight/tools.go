package preflight

import (
	"context"
	"fmt"
	"os/exec"

	"strings"
)

// run returns what a program printed, and an error with the last line of that
// if it failed.
func run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil && text != "" {
		lines := strings.Split(text, "\n")
		err = fmt.Errorf("%s: %w", lines[len(lines)-1], err)
	}
	return text, err
}

func shimBinary(context.Context, *Node) []Finding {
	const feature = "shim"
	path, err := exec.LookPath("containerd-shim-godwit-v2")
	if err != nil {
		return warning(feature, "not in the daemon's PATH", "Install containerd-shim-godwit-v2 where containerd's PATH has it.")
	}
	return ok(feature, path)
}
