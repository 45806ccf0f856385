package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyACgroupOfTheContainersOwnIsABundles(t *testing.T) {
	for path, want := range map[string]string{
		"/pods/4f00c496":                         "/pods/4f00c496",
		"/":                                      "",
		"/pods":                                  "",
		"pods/4f00c496":                          "",
		"":                                       "",
		"kubepods.slice:cri-containerd:4f00c496": "",
	} {
		bundle := filepath.Join(t.TempDir(), "4f00c496")
		if err := os.Mkdir(bundle, 0o700); err != nil {
			t.Fatal(err)
		}
		spec := fmt.Sprintf(`{"linux": {"cgroupsPath": %q}}`, path)
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := bundleCgroup(bundle); got != want {
			t.Errorf("%q: %q", path, got)
		}
	}
	if got := bundleCgroup(filepath.Join(t.TempDir(), "4f00c496")); got != "" {
		t.Errorf("no specification: %q", got)
	}
}
