// Package ociruntime knows the programs that run containers for containerd, runc
// and crun, and finds out whether the one of a node can do what a move needs of
// it: hand CRIU a configuration file of Godwit's own. Calling them is the shim's.
package ociruntime

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kind is which program it is, whatever its file is called.
type Kind string

// The programs that can do what a move needs.
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
		return Runtime{}, fmt.Errorf("%w: %w: install it, or set BinaryName of containerd's runtime godwit to one that is", ErrUnfit, err)
	}
	return parseVersion(binary, string(out))
}

// firstLine is `runc version 1.3.6` or `crun version 1.28`.
var firstLine = regexp.MustCompile(`^(\S+) version v?(\S+)`)

func parseVersion(binary, printed string) (Runtime, error) {
	m := firstLine.FindStringSubmatch(printed)
	if m == nil || !slices.Contains([]Kind{Runc, Crun}, Kind(m[1])) {
		line, _, _ := strings.Cut(strings.TrimSpace(printed), "\n")
		return Runtime{}, fmt.Errorf("%w: %s says that it is %.60q, and only runc and crun can hand CRIU what a move needs: "+
			"set BinaryName of containerd's runtime godwit to one of them", ErrUnfit, binary, line)
	}
	return Runtime{Kind: Kind(m[1]), Binary: binary, Version: m[2]}, nil
}

// Fit returns nil if the runtime can do what a move needs, and otherwise an error
// that wraps ErrUnfit and says what it lacks and what to do.
func (r Runtime) Fit(ctx context.Context, run Run) error {
	out, err := run.output(ctx, r.Binary, "features")
	if err != nil {
		return r.unfit("it does not tell its features (%v): install runc 1.1, crun 1.26, or later", err)
	}
	checkpoints, err := checkpointing(out)
	switch {
	case err != nil:
		return r.unfit("its features cannot be read: %v", err)
	case !checkpoints:
		return r.unfit("it is built without checkpoint support: install one that has it")
	case r.Kind == Crun:
		return r.fitCrun(ctx, run)
	}
	return nil
}

func (r Runtime) unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %s %s: %s", ErrUnfit, r.Kind, r.Version, fmt.Sprintf(format, args...))
}

// checkpointing reads features.Features of the runtime specification. The
// annotation is runc's (runc: types/features/features.go), and crun has it too.
func checkpointing(features []byte) (bool, error) {
	var f struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(features, &f); err != nil {
		return false, err
	}
	return f.Annotations["org.opencontainers.runc.checkpoint.enabled"] == "true", nil
}

// The configuration file reaches CRIU since crun 1.26, and if libcriu has this
// function, since CRIU 4.2 (crun: src/libcrun/criu.c, handle_criu_config_file).
// crun has no options of its own for lazy pages.
const configFunction = "criu_set_config_file"

var leastCrun = [2]int{1, 26}

// crunLibrary is what crun loads when it is to checkpoint (load_wrapper there).
const crunLibrary = "libcriu.so.2"

func (r Runtime) fitCrun(ctx context.Context, run Run) error {
	if !atLeast(r.Version, leastCrun) {
		return r.unfit("it cannot hand CRIU a configuration file: install crun %d.%d or later, or use runc", leastCrun[0], leastCrun[1])
	}
	path, err := findLibrary(ctx, run)
	if err != nil {
		return r.unfit("%v: install it (package libcriu2), or use runc", err)
	}
	has, err := defines(path, configFunction)
	if err != nil {
		return r.unfit("%v", err)
	}
	if !has {
		return r.unfit("its %s has no %s, by which CRIU gets a configuration file: install that of CRIU 4.2 or later, or use runc", path, configFunction)
	}
	return nil
}

// atLeast compares the first two numbers of a version.
func atLeast(version string, least [2]int) bool {
	parts := strings.SplitN(version, ".", 3)
	for i, want := range least {
		n := 0
		if i < len(parts) {
			digits, _, _ := strings.Cut(parts[i], "-")
			n, _ = strconv.Atoi(digits)
		}
		if n != want {
			return n > want
		}
	}
	return true
}

// findLibrary asks the dynamic linker's cache.
func findLibrary(ctx context.Context, run Run) (string, error) {
	out, err := run.output(ctx, "/sbin/ldconfig", "-p")
	if err != nil {
		return "", fmt.Errorf("%s is not found: %w", crunLibrary, err)
	}
	for line := range strings.Lines(string(out)) {
		name, path, found := strings.Cut(strings.TrimSpace(line), " => ")
		if found && strings.HasPrefix(name, crunLibrary+" ") && filepath.IsAbs(path) {
			return path, nil
		}
	}
	return "", fmt.Errorf("it has no %s", crunLibrary)
}

// defines says whether a library has a function.
func defines(library, function string) (bool, error) {
	f, err := elf.Open(library)
	if err != nil {
		return false, err
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return false, fmt.Errorf("%s: %w", library, err)
	}
	return slices.ContainsFunc(symbols, func(s elf.Symbol) bool { return s.Name == function && s.Section != elf.SHN_UNDEF }), nil
}
