package preflight

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// leastCRIU is the oldest CRIU whose lazy restore and action scripts the shim
// can work with.
var leastCRIU = [2]int{4, 0}

var versionNumber = regexp.MustCompile(`(\d+)\.(\d+)(\.\d+)*`)

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

func criuVersion(ctx context.Context, _ *Node) []Finding {
	const feature, remedy = "CRIU", "Install CRIU 4.0 or later (package criu) where containerd's PATH has it."
	out, err := run(ctx, "criu", "--version")
	if err != nil {
		return missing(feature, err.Error(), remedy)
	}
	v := versionNumber.FindStringSubmatch(out)
	if v == nil {
		return missing(feature, "its version cannot be read: "+out, remedy)
	}
	major, _ := strconv.Atoi(v[1])
	minor, _ := strconv.Atoi(v[2])
	if major < leastCRIU[0] || major == leastCRIU[0] && minor < leastCRIU[1] {
		return missing(feature, v[0]+" is too old", remedy)
	}
	return ok(feature, v[0])
}

func criuCheck(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU on this kernel"
	if _, err := run(ctx, "criu", "check"); err != nil {
		return missing(feature, err.Error(), "Run `criu check` as root: it says which kernel option is missing.")
	}
	return ok(feature, "criu check passes")
}

func criuLazy(ctx context.Context, _ *Node) []Finding {
	const feature = "CRIU lazy restore"
	for _, f := range []string{"uffd", "uffd-noncoop"} {
		if _, err := run(ctx, "criu", "check", "--feature", f); err != nil {
			return missing(feature, fmt.Sprintf("feature %s: %v", f, err), "The kernel needs CONFIG_USERFAULTFD, and root must be allowed to use it.")
		}
	}
	return ok(feature, "uffd, uffd-noncoop")
}

func criuDirtyTracking(ctx context.Context, _ *Node) []Finding {
	const feature = "kernel soft-dirty bits"
	if _, err := run(ctx, "criu", "check", "--feature", "mem_dirty_track"); err != nil {
		return []Finding{{Feature: feature, Status: OK, Detail: "not there, and not needed with write-protection"}}
	}
	return ok(feature, "there; write-protection is used if it is there too")
}

func runcVersion(ctx context.Context, _ *Node) []Finding {
	const feature, remedy = "runc", "Install runc 1.1 or later where containerd's PATH has it."
	out, err := run(ctx, "runc", "--version")
	if err != nil {
		return missing(feature, err.Error(), remedy)
	}
	return ok(feature, versionNumber.FindString(out))
}

func runcCheckpoint(ctx context.Context, _ *Node) []Finding {
	const feature = "runc checkpoint"
	out, err := exec.CommandContext(ctx, "runc", "features").Output()
	if err != nil {
		return warning(feature, "runc features: "+err.Error(), "Install runc 1.1 or later.")
	}
	// features.Features of the runtime specification; the annotation is runc's
	// own (runc: types/features/features.go).
	var f struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return warning(feature, "runc features: "+err.Error(), "")
	}
	if f.Annotations["org.opencontainers.runc.checkpoint.enabled"] != "true" {
		return missing(feature, "runc cannot use CRIU", "Install a runc that is not built without checkpoint support, and CRIU.")
	}
	return ok(feature, "enabled")
}

func shimBinary(context.Context, *Node) []Finding {
	const feature = "shim"
	path, err := exec.LookPath("containerd-shim-godwit-v2")
	if err != nil {
		return warning(feature, "not in the daemon's PATH", "Install containerd-shim-godwit-v2 where containerd's PATH has it.")
	}
	return ok(feature, path)
}
