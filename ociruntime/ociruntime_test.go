package ociruntime

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRuntimeIsToldByWhatItSaysOfItself(t *testing.T) {
	for printed, want := range map[string]Runtime{
		"runc version 1.3.6+ds1\ncommit: 1.3.6+ds1-1\nspec: 1.2.1\n": {Runc, "x", "1.3.6+ds1"},
		"crun version 1.28\ncommit: 54f16\nrundir: /run/crun\n":      {Crun, "x", "1.28"},
		"runc version v1.1.0": {Runc, "x", "1.1.0"},
	} {
		if got, err := parseVersion("x", printed); err != nil || got != want {
			t.Errorf("%q: %+v, %v", printed, got, err)
		}
	}
	for _, printed := range []string{"", "youki version 0.5.0", "runsc version release-2025", "version 3", "no such file"} {
		if got, err := parseVersion("x", printed); !errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), "remove BinaryName") {
			t.Errorf("%q: %+v, %v", printed, got, err)
		}
	}
}

// program makes a runtime that prints what the test says.
func program(t *testing.T, version, features string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runtime")
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in\n--version) echo '%s';;\nfeatures) echo '%s';;\n*) exit 1;;\nesac\n", version, features)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const checkpoints = `{"annotations":{"org.opencontainers.runc.checkpoint.enabled":"true"}}`

func TestRuntimeThatLacksSomethingIsRefusedWithARemedy(t *testing.T) {
	for _, c := range []struct{ name, version, features, says string }{
		{"runc", "runc version 1.3.6", checkpoints, ""},
		{"runc without checkpoints", "runc version 1.3.6", `{"annotations":{}}`, "without checkpoint support"},
		{"runc of old", "runc version 1.0.0", "not JSON", "cannot be read"},
		{"crun", "crun version 1.28", checkpoints, "in the cgroup of the shim: run pods that are to be moved by runc"},
	} {
		r, err := Identify(t.Context(), program(t, c.version, c.features), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		err = r.Fit(t.Context(), nil)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrUnfit) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
	if _, err := Identify(t.Context(), "/none/there", nil); !errors.Is(err, ErrUnfit) {
		t.Errorf("no such program: %v", err)
	}
}

func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"runc version 1.3.6", "crun version 1.28\n", "", "crun version \n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := parseVersion("x", s); err == nil && (r.Version == "" || !bytes.HasPrefix([]byte(s), []byte(r.Kind))) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}
