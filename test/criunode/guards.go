package criunode

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"strings"
)

//go:embed testdata/guards.c
var guardsSource string

// GuardsName is the name of the process that StartGuards starts.
const GuardsName = "guards"

// StartGuards starts a program with guard pages in memory of several kinds; see testdata/guards.c. mapped says whether a file's is among these. It
// returns the pid in the node. An error wraps ErrUnavailable where there is no C compiler.
func (n *Node) StartGuards(ctx context.Context, mapped bool) (pid int, err error) {
	if err := compile(ctx, guardsSource, n.Path("/tmp/"+GuardsName), "-pthread"); err != nil {
		return 0, err
	}
	args := []string{"bash", "-c", `GLIBC_TUNABLES=glibc.pthread.rseq=0 setsid "$@" </dev/null >/dev/null 2>&1 & echo $!`, "start",
		"/tmp/" + GuardsName, "/tmp/guards.log"}
	if mapped {
		args = append(args, "/tmp/guards.mapped")
		if err := os.WriteFile(n.Path("/tmp/guards.mapped"), make([]byte, 64<<10), 0o600); err != nil {
			return 0, fmt.Errorf("file to map: %w", err)
		}
	}
	out, err := n.Command(ctx, args...).Output()
	if err != nil {
		return 0, fmt.Errorf("start the program to dump: %w", err)
	}
	if err := n.Await(ctx, "/tmp/guards.log", "process 0 is ready\n"); err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}
