// Package ociarchive writes OCI images as files that `ctr images import` reads,
// without a registry and without Docker. What is in the image's one layer is the
// caller's matter.
package ociarchive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of one layer.
type Image struct {
	// Ref is its full name: "localhost/godwit:0.1.0".
	Ref string
	// Config is its configuration, an ocispec.Image as JSON.
	Config []byte
	// LayerDigest ("sha256:...") and LayerSize are of the layer, a tar that is not
	// compressed, so its digest is its diff ID too.
	LayerDigest string
	LayerSize   int64
}

// Digest is the SHA-256 digest of b, as images write it.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Config makes a configuration for the platform, with the layer that has the digest.
func Config(architecture string, c ocispec.ImageConfig, layerDigest string) ([]byte, error) {
	return json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: architecture, OS: "linux"},
		Config:   c,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.Digest(layerDigest)}},
	})
}

// Write writes an OCI image layout (image-spec, image-layout.md) as a tar.
func Write(w io.Writer, i Image, layer io.Reader) error {
	t := tar.NewWriter(w)
	put := func(name string, size int64, content io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := io.Copy(t, content)
		return err
	}
	blob := func(mediaType string, b []byte) (ocispec.Descriptor, error) {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(Digest(b)), Size: int64(len(b))}
		return d, put("blobs/sha256/"+d.Digest.Encoded(), d.Size, bytes.NewReader(b))
	}
	if err := put("blobs/sha256/"+strings.TrimPrefix(i.LayerDigest, "sha256:"), i.LayerSize, layer); err != nil {
		return err
	}
	configDesc, err := blob(ocispec.MediaTypeImageConfig, i.Config)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(i.LayerDigest), Size: i.LayerSize,
		}},
	})
	if err != nil {
		return err
	}
	manifestDesc, err := blob(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	manifestDesc.Annotations = map[string]string{
		"io.containerd.image.name": i.Ref, ocispec.AnnotationRefName: i.Ref[strings.LastIndex(i.Ref, ":")+1:],
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifestDesc},
	})
	if err != nil {
		return err
	}
	if err := put("index.json", int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	layout := `{"imageLayoutVersion":"1.0.0"}`
	if err := put(ocispec.ImageLayoutFile, int64(len(layout)), strings.NewReader(layout)); err != nil {
		return err
	}
	return t.Close()
}
