package lab

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func sha256Of(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func digests(d ...string) []digest.Digest {
	all := make([]digest.Digest, len(d))
	for i := range d {
		all[i] = digest.Digest(d[i])
	}
	return all
}

// writeArchive writes an OCI image layout (image-spec, image-layout.md) as a tar: one image of one layer.
func writeArchive(w io.Writer, r imageRecord, config []byte, layer io.Reader) error {
	t := tar.NewWriter(w)
	put := func(name string, size int64, content io.Reader) error {
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := io.Copy(t, content)
		return err
	}
	blob := func(mediaType string, b []byte) (ocispec.Descriptor, error) {
		sum := hex.EncodeToString(sha256Of(b))
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest("sha256:" + sum), Size: int64(len(b))}
		return d, put("blobs/sha256/"+sum, d.Size, strings.NewReader(string(b)))
	}
	if err := put("blobs/sha256/"+strings.TrimPrefix(r.Layer.Digest, "sha256:"), r.Layer.Size, layer); err != nil {
		return err
	}
	configDesc, err := blob(ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(r.Layer.Digest), Size: r.Layer.Size,
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
		"io.containerd.image.name": r.Ref, ocispec.AnnotationRefName: r.Ref[strings.LastIndex(r.Ref, ":")+1:],
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{manifestDesc},
	})
	if err != nil {
		return err
	}
	if err := put("index.json", int64(len(index)), strings.NewReader(string(index))); err != nil {
		return err
	}
	layout := `{"imageLayoutVersion":"1.0.0"}`
	if err := put(ocispec.ImageLayoutFile, int64(len(layout)), strings.NewReader(layout)); err != nil {
		return err
	}
	return t.Close()
}
