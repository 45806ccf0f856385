package shim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"

	shimv1 "godwit.dev/godwit/shim/api/v1"
	"godwit.dev/godwit/shim/criu"
)

// bundleOf makes a bundle with this OCI specification.
func bundleOf(t *testing.T, spec string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestOpenBundleKeepsEverythingButOneAnnotation(t *testing.T) {
	spec := `{"ociVersion":"1.2.1","unknown":{"of":["a later",1.5]},"process":{"terminal":false,"args":["x"]},
		"annotations":{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"s1","godwit.dev/migration":"m-1","a":"b"}}`
	dir := bundleOf(t, spec)
	c, err := openBundle("c1", "k8s.io", dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.podID != "s1" || c.sandbox || c.migration != "m-1" || c.terminal {
		t.Errorf("read %+v", c)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var before, after map[string]any
	json.Unmarshal([]byte(spec), &before)
	if err := json.Unmarshal(raw, &after); err != nil {
		t.Fatal(err)
	}
	annotations := after["annotations"].(map[string]any)
	if annotations[criu.ConfigAnnotation] != c.criuConfig() {
		t.Errorf("annotations are %v", annotations)
	}
	delete(annotations, criu.ConfigAnnotation)
	if !reflect.DeepEqual(before, after) {
		t.Errorf("got %v, want %v", after, before)
	}
}

func TestOpenBundleLeavesAUsersConfigurationOfCRIU(t *testing.T) {
	spec := `{"annotations":{"` + criu.ConfigAnnotation + `":"/own"}}`
	dir := bundleOf(t, spec)
	if _, err := openBundle("c1", "k8s.io", dir); err != nil {
		t.Fatal(err)
	}
	if raw, _ := os.ReadFile(filepath.Join(dir, "config.json")); string(raw) != spec {
		t.Errorf("specification became %s", raw)
	}
}

func TestAdmitRefusesMigrationsThatNobodyExpects(t *testing.T) {
	for _, id := range []string{"", "../../etc/passwd", "M1", strings.Repeat("a", 70), "nobody-knows-this"} {
		if _, err := admit(t.TempDir(), &container{id: "c1", migration: id}); err == nil {
			t.Errorf("migration %q was admitted", id)
		}
	}
}

func TestRuncOptionsUnderstandsWhatCRIPassesForUnknownRuntimes(t *testing.T) {
	given, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = true\nBinaryName = '/opt/runc'\n")})
	if err != nil {
		t.Fatal(err)
	}
	got, err := runcOptions(given)
	if err != nil {
		t.Fatal(err)
	}
	var o options.Options
	if err := typeurl.UnmarshalTo(got, &o); err != nil {
		t.Fatal(err)
	}
	if !o.SystemdCgroup || o.BinaryName != "/opt/runc" {
		t.Errorf("options are %v", &o)
	}
	own, _ := typeurl.MarshalAnyToProto(&options.Options{BinaryName: "x"})
	if same, err := runcOptions(own); err != nil || same != own {
		t.Errorf("runc's own options became %v: %v", same, err)
	}
	if none, err := runcOptions(nil); err != nil || none != nil {
		t.Errorf("no options became %v: %v", none, err)
	}
	bad, _ := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = ")})
	if _, err := runcOptions(bad); err == nil {
		t.Error("malformed options were taken")
	}
}

func TestChannelsAreUnambiguous(t *testing.T) {
	for _, container := range []uint16{0, 1, 1023, 65535} {
		for _, tree := range []shimv1.Tree{shimv1.TreeImages, shimv1.TreeRootfs, shimv1.TreeShm} {
			c, got := shimv1.SplitChannel(shimv1.Channel(container, tree))
			if c != container || got != tree {
				t.Errorf("container %d, tree %d became %d, %d", container, tree, c, got)
			}
		}
	}
}
