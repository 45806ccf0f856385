// Command image writes Godwit's container image as an OCI archive, from programs that are built already, without a registry
// and without Docker: `make image`. The image has nothing but static programs: what else the node daemon runs (CRIU, runc,
// containerd) is the host's, where it runs itself; see nodecontroller/inhost.
package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"godwit.dev/godwit/contrib/image/ociarchive"
	"godwit.dev/godwit/nodecontroller"
)

// binDir is where the image has its programs.
const binDir = "usr/local/bin"

// programs are in the image; the optional ones if they have been built.
var (
	programs = []string{"containerd-shim-godwit-v2", "godwit-controller", "godwit-node", "godwitctl"}
	optional = []string{"kubectl-godwit"}
)

func main() {
	bin := flag.String("bin", "bin", "directory with the programs")
	out := flag.String("out", "out/godwit-image.tar", "file to write")
	ref := flag.String("ref", "localhost/godwit:"+nodecontroller.Version, "the image's name")
	flag.Parse()
	if err := build(*bin, *out, *ref); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
	fmt.Printf("%s: %s\n", *out, *ref)
}

func build(bin, out, ref string) error {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	layer, err := os.CreateTemp(filepath.Dir(out), "layer-")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	if err := writeLayer(io.MultiWriter(layer, sum), bin); err != nil {
		return err
	}
	image := ociarchive.Image{Ref: ref, LayerDigest: "sha256:" + hex.EncodeToString(sum.Sum(nil))}
	if image.LayerSize, err = layer.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	image.Config, err = ociarchive.Config(runtime.GOARCH, ocispec.ImageConfig{
		Entrypoint: []string{"/" + binDir + "/godwit-node"},
		Env:        []string{"PATH=/" + binDir},
	}, image.LayerDigest)
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(out), "image-")
	if err != nil {
		return err
	}
	err = errors.Join(ociarchive.Write(tmp, image, layer), tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), out)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// writeLayer packs the programs; the same programs make the same layer.
func writeLayer(w io.Writer, bin string) error {
	t := tar.NewWriter(w)
	for _, dir := range []string{"etc/", "etc/godwit/", "tmp/", "usr/", "usr/local/", binDir + "/"} {
		if err := t.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for i, name := range append(programs, optional...) {
		err := addProgram(t, filepath.Join(bin, name), name)
		if errors.Is(err, fs.ErrNotExist) && i >= len(programs) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: run make build", err)
		}
	}
	return t.Close()
}

func addProgram(t *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	header := &tar.Header{Name: binDir + "/" + name, Typeflag: tar.TypeReg, Mode: 0o755, Size: info.Size(), ModTime: time.Unix(0, 0)}
	if err := t.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}
