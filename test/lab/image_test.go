package lab

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func TestImageRef(t *testing.T) {
	for in, want := range map[string]string{
		"redis": "localhost/redis:latest", "redis:8": "localhost/redis:8", "localhost/pause:1": "localhost/pause:1",
		"reg:5000/a/b": "reg:5000/a/b:latest", "reg/a@sha256:00": "reg/a@sha256:00",
	} {
		if got := ImageRef(in); got != want {
			t.Errorf("ImageRef(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestArchiveHoldsTheTreeAsItIs packs a tree and reads the image back as a runtime would.
func TestArchiveHoldsTheTreeAsItIs(t *testing.T) {
	root := t.TempDir()
	for _, d := range []string{"bin", "tmp", "var/log/nginx", "usr/share/doc/x"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]fs.FileMode{"bin/tool": 0o755, "secret": 0o600, "var/log/old": 0o644, "var/log/nginx/old": 0o644, "usr/share/doc/x/readme": 0o644} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("content of "+name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(root, "tmp"), 0o777|fs.ModeSticky), os.Symlink("tool", filepath.Join(root, "bin/link")),
		os.Link(filepath.Join(root, "bin/tool"), filepath.Join(root, "bin/twin"))); err != nil {
		t.Fatal(err)
	}
	withXattr := unix.Setxattr(filepath.Join(root, "secret"), "user.test", []byte("value"), 0) == nil

	made, err := writeLayer(t.Context(), filepath.Join(t.TempDir(), "layer.tar"), root, unneeded)
	if err != nil {
		t.Fatal(err)
	}
	r := imageRecord{Ref: "localhost/x:1", Layer: made, Config: ocispec.ImageConfig{Entrypoint: []string{"/bin/tool"}, User: "7"}}
	archive, id, err := r.archive()
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := untar(t, archive)
	var index ocispec.Index
	var manifest ocispec.Manifest
	var config ocispec.Image
	decode(t, files["index.json"], &index)
	decode(t, files["blobs/sha256/"+index.Manifests[0].Digest.Encoded()], &manifest)
	decode(t, files["blobs/sha256/"+manifest.Config.Digest.Encoded()], &config)
	if index.Manifests[0].Annotations["io.containerd.image.name"] != r.Ref || manifest.Config.Digest.String() != id || config.Config.User != "7" {
		t.Errorf("index %+v, id %s, config %+v", index, id, config)
	}
	content := files["blobs/sha256/"+manifest.Layers[0].Digest.Encoded()]
	if int64(len(content)) != manifest.Layers[0].Size || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Error("the layer is not as described")
	}
	var got []string
	tr := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname))
		if h.Name == "secret" && withXattr && h.PAXRecords["SCHILY.xattr.user.test"] != "value" {
			t.Errorf("extended attributes %v", h.PAXRecords)
		}
	}
	want := []string{
		"drwxr-xr-x bin/", "Lrwxrwxrwx bin/link tool", "-rwxr-xr-x bin/tool", "-rwxr-xr-x bin/twin bin/tool", "-rw------- secret",
		"dtrwxrwxrwx tmp/", "drwxr-xr-x usr/", "drwxr-xr-x usr/share/", "drwxr-xr-x var/", "drwxr-xr-x var/log/", "drwxr-xr-x var/log/nginx/",
	}
	if !slices.Equal(got, want) {
		t.Errorf("layer\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
}
