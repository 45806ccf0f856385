package shim

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestACRIUHasItsOwnDirectoryForMountsIfNobodyNeedsTheNodes(t *testing.T) {
	dir := t.TempDir() // below the directory
	link := filepath.Join("/var", "lib", "godwit-test-"+filepath.Base(filepath.Dir(dir)))
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(link) })
	bundle := "/run/godwit-test-bundle"
	for name, c := range map[string]struct {
		container container
		path      string
		want      bool
	}{
		"nothing there":                {container{bundle: bundle, mounts: []specs.Mount{{Source: "/etc/hosts"}, {Source: "proc"}, {Source: "/tmpfs"}}}, "/var/store", true},
		"hooks":                        {container{bundle: bundle, hooks: true}, "", false},
		"the bundle":                   {container{bundle: dir}, "", false},
		"a volume":                     {container{bundle: bundle, mounts: []specs.Mount{{Source: "/tmp/data"}}}, "", false},
		"all of it":                    {container{bundle: bundle, mounts: []specs.Mount{{Source: "/tmp"}}}, "", false},
		"a volume behind a link":       {container{bundle: bundle, mounts: []specs.Mount{{Source: link}}}, "", false},
		"a volume below another name":  {container{bundle: bundle, mounts: []specs.Mount{{Source: "/var/../tmp/data"}}}, "", false},
		"images":                       {container{bundle: bundle}, "/tmp/store/images", false},
		"an empty path is none at all": {container{bundle: bundle}, "", true},
	} {
		if got := c.container.ownsYard(c.path); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
