// Package ociruntime knows the programs that run containers for containerd, runc
// and crun, and finds out whether the one of a node can do what a move needs of
// it, or says what it lacks. Calling them is the shim's.
package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// Kind is which program it is, whatever its file is called.
type Kind string

// The programs that are known. Only runc can do what a move needs: see Fit.
const (
	Runc Kind = "runc"
	Crun Kind = "crun"
)

// ErrUnfit is wrapped by the error for a runtime that cannot do what a move needs.
var ErrUnfit = errors.New("this OCI runtime cannot take part in a move")

// Runtime is one of them, as installed.
type Runtime struct {
	Kind    Kind
	Binary  string // as containerd's configuration names it
	Version string // as it says itself
}

// Run runs a command to its end. A process that collects its children in one
// place needs its own; nil is exec's.
type Run func(context.Context, *exec.Cmd) error

// output is what a command prints on its standard output.
func (run Run) output(ctx context.Context, name string, args ...string) ([]byte, error) {
	if run == nil {
		run = func(_ context.Context, cmd *exec.Cmd) error { return cmd.Run() }
	}
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := run(ctx, cmd); err != nil {
		return nil, fmt.Errorf("%s %s: %w %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out.Bytes(), nil
}

// Identify says which runtime a binary is; an empty name is runc's, as it is for
// containerd (go-runc, DefaultCommand).
func Identify(ctx context.Context, binary string, run Run) (Runtime, error) {
	if binary == "" {
		binary = string(Runc)
	}
	out, err := run.output(ctx, binary, "--version")
	if err != nil {
		return Runtime{}, fmt.Errorf("%w: %w: install runc 1.1 or later where containerd's PATH has it", ErrUnfit, err)
	}
	return parseVersion(binary, string(out))
}

// firstLine is `runc version 1.3.6` or `crun version 1.28`.
var firstLine = regexp.MustCompile(`^(\S+) version v?(\S+)`)

func parseVersion(binary, printed string) (Runtime, error) {
	m := firstLine.FindStringSubmatch(printed)
	if m == nil || !slices.Contains([]Kind{Runc, Crun}, Kind(m[1])) {
		line, _, _ := strings.Cut(strings.TrimSpace(printed), "\n")
		return Runtime{}, fmt.Errorf("%w: %s says that it is %.60q, and only runc can do what a move needs: "+
			"remove BinaryName from the options of containerd's runtime godwit", ErrUnfit, binary, line)
	}
	return Runtime{Kind: Kind(m[1]), Binary: binary, Version: m[2]}, nil
}

// Fit returns nil if the runtime can do what a move needs, and otherwise an error
// that wraps ErrUnfit and says what it lacks and what to do.
func (r Runtime) Fit(ctx context.Context, run Run) error {
	if r.Kind == Crun {
		return r.unfit("%s", crunLacks)
	}
	out, err := run.output(ctx, r.Binary, "features")
	if err != nil {
		return r.unfit("it does not tell its features (%v): install runc 1.1 or later", err)
	}
	checkpoints, err := checkpointing(out)
	switch {
	case err != nil:
		return r.unfit("its features cannot be read: %v", err)
	case !checkpoints:
		return r.unfit("it is built without checkpoint support: install one that has it")
	}
	return nil
}

func (r Runtime) unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %s %s: %s", ErrUnfit, r.Kind, r.Version, fmt.Sprintf(format, args...))
}

// crunLacks is what keeps crun, up to 1.29, from doing runc's part. It dumps as it
// should, if CRIU's configuration file says what crun has no options for. But to
// its `restore` containerd passes an option that it does not know (go-runc,
// RestoreOpts.args: -no-subreaper; crun: src/restore.c). And what it restores
// stays in the cgroup of its caller: runc moves CRIU into the container's cgroup
// before (libcontainer/criu_linux.go, criuApplyCgroups), crun leaves that to
// CRIU's own handling of cgroups (src/libcrun/criu.c,
// libcrun_container_restore_linux_criu), which a move cannot wait for. The next
// move would then freeze the shim together with the pod.
const crunLacks = "its checkpoint has no --lazy-pages, its restore refuses containerd's -no-subreaper and leaves the restored processes " +
	"in the cgroup of the shim: run pods that are to be moved by runc (remove BinaryName from the options of containerd's runtime godwit)"

// checkpointing reads features.Features of the runtime specification. The
// annotation is runc's (runc: types/features/features.go).
func checkpointing(features []byte) (bool, error) {
	var f struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(features, &f); err != nil {
		return false, err
	}
	return f.Annotations["org.opencontainers.runc.checkpoint.enabled"] == "true", nil
}
