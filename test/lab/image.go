package lab

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/contrib/image/ociarchive"
)

// ImageSpec says what an image is made of.
type ImageSpec struct {
	// Name is the image's; see ImageRef for a short one.
	Name string
	// Dir is a root file system, packed as it is; or else
	Dir string
	// Debian are packages, on Debian's minimal system. The result is cached.
	Debian []string

	Entrypoint []string
	Cmd        []string
	Env        []string // "NAME=value"
	User       string   // as in an image: "redis", "999:999"
	WorkDir    string

	// Nodes limits who gets the image; empty is all, also nodes that are made later.
	Nodes []string
}

// imageRecord is an image of the lab: what is needed to give it to a node.
type imageRecord struct {
	Ref    string              `json:"ref"`
	Layer  layer               `json:"layer"`
	Config ocispec.ImageConfig `json:"config"`
	Nodes  []string            `json:"nodes,omitempty"`
}

func (r imageRecord) wantedBy(node string) bool {
	return len(r.Nodes) == 0 || slices.Contains(r.Nodes, node)
}

// ImageRef completes a short image name: "redis" is localhost/redis:latest. What has a registry stays as it is.
func ImageRef(name string) string {
	if !strings.Contains(name, "/") {
		name = "localhost/" + name
	}
	if last := name[strings.LastIndex(name, "/"):]; !strings.ContainsAny(last, ":@") {
		name += ":latest"
	}
	return name
}

// AddImage makes an image and gives it to the nodes. It returns the reference under which pods use it.
func (l *Lab) AddImage(ctx context.Context, spec ImageSpec) (string, error) {
	if (spec.Dir == "") == (len(spec.Debian) == 0) {
		return "", fmt.Errorf("image %s: want either a directory or Debian packages", spec.Name)
	}
	for _, name := range spec.Nodes {
		if _, err := l.Find(name); err != nil {
			return "", fmt.Errorf("image %s: %w", spec.Name, err)
		}
	}
	record := imageRecord{Ref: ImageRef(spec.Name), Nodes: spec.Nodes, Config: ocispec.ImageConfig{
		Entrypoint: spec.Entrypoint, Cmd: spec.Cmd, User: spec.User, WorkingDir: spec.WorkDir,
		Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, spec.Env...),
	}}
	var err error
	if spec.Dir != "" {
		record.Layer, err = l.dirLayer(ctx, spec.Dir)
	} else {
		record.Layer, err = l.debianLayer(ctx, spec.Debian)
	}
	if err != nil {
		return "", fmt.Errorf("image %s: %w", spec.Name, err)
	}
	// Not while nodes are built: each would miss the other.
	release, err := flock(ctx, l.lockFile())
	if err != nil {
		return "", err
	}
	defer release()
	if err := writeJSON(l.imageFile(record.Ref), record); err != nil {
		return "", fmt.Errorf("image %s: %w", spec.Name, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range l.nodes {
		if record.wantedBy(n.Name) {
			g.Go(func() error { return n.importImage(gctx, record) })
		}
	}
	return record.Ref, g.Wait()
}

func (l layout) imageFile(ref string) string {
	sum := sha256.Sum256([]byte(ref))
	return filepath.Join(l.data, "images", hex.EncodeToString(sum[:8])+".json")
}

// imageRecords are the images that a new node gets.
func (l layout) imageRecords() ([]imageRecord, error) {
	files, err := filepath.Glob(filepath.Join(l.data, "images", "*.json"))
	if err != nil {
		return nil, err
	}
	var all []imageRecord
	for _, file := range files {
		var r imageRecord
		if err := readJSON(file, &r); err != nil {
			return nil, fmt.Errorf("images of the lab: %w", err)
		}
		all = append(all, r)
	}
	return all, nil
}

// dirLayer packs a directory into the lab's own data: unlike packages it may be another one next time.
func (l *Lab) dirLayer(ctx context.Context, dir string) (layer, error) {
	if !isDir(dir) {
		return layer{}, fmt.Errorf("%s is not a directory", dir)
	}
	layers := filepath.Join(l.data, "images", "layers")
	if err := os.MkdirAll(layers, 0o700); err != nil {
		return layer{}, err
	}
	tmp, err := os.CreateTemp(layers, "tmp-")
	if err != nil {
		return layer{}, err
	}
	tmp.Close()
	defer os.Remove(tmp.Name())
	made, err := writeLayer(ctx, tmp.Name(), dir, nil)
	if err != nil {
		return layer{}, err
	}
	made.Path = filepath.Join(layers, strings.TrimPrefix(made.Digest, "sha256:")+".tar")
	return made, os.Rename(tmp.Name(), made.Path)
}

// debianLayer packs packages and what they need, cached by their names. The root it is packed from is not kept.
func (l *Lab) debianLayer(ctx context.Context, packages []string) (layer, error) {
	skip := strings.TrimPrefix(ociarchive.Digest([]byte(strings.Join(unneeded, " "))), "sha256:")[:6]
	return l.cachedLayer(ctx, rootKey(packages)+"-"+skip, func(tmp string) (layer, error) {
		root, err := l.debianRoot(ctx, packages)
		if err != nil {
			return layer{}, err
		}
		made, err := writeLayer(ctx, filepath.Join(tmp, "layer.tar"), root, unneeded)
		if err != nil {
			return layer{}, err
		}
		if key := rootKey(packages); key != rootKey(nil) && key != rootKey(nodePackages) {
			err = removeTree(root)
		}
		return made, err
	})
}

// cachedLayer returns the layer of that name from the cache, or has it made there.
func (l *Lab) cachedLayer(ctx context.Context, key string, build func(tmp string) (layer, error)) (layer, error) {
	dir := filepath.Join(l.cache, "layers", key)
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "layer-"+key))
	if err != nil {
		return layer{}, err
	}
	defer release()
	var made layer
	if err := readJSON(filepath.Join(dir, "layer.json"), &made); err == nil {
		return made, nil
	}
	err = atomicDir(dir, func(tmp string) error {
		made, err = build(tmp)
		if err != nil {
			return err
		}
		made.Path = filepath.Join(dir, filepath.Base(made.Path))
		return writeJSON(filepath.Join(tmp, "layer.json"), made)
	})
	return made, err
}

//go:embed pause/pause.c
var pauseSource []byte

// pauseImage is the image of sandboxes: one static program that waits.
func (l *Lab) pauseImage(ctx context.Context) (imageRecord, error) {
	sum := sha256.Sum256(pauseSource)
	made, err := l.cachedLayer(ctx, "pause-"+hex.EncodeToString(sum[:6]), func(tmp string) (layer, error) {
		root := filepath.Join(tmp, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			return layer{}, err
		}
		defer os.RemoveAll(root)
		source := filepath.Join(tmp, "pause.c")
		if err := os.WriteFile(source, pauseSource, 0o644); err != nil {
			return layer{}, err
		}
		cc := exec.CommandContext(ctx, "cc", "-Os", "-static", "-s", "-o", filepath.Join(root, "pause"), source)
		if out, err := cc.CombinedOutput(); err != nil {
			return layer{}, fmt.Errorf("compile: %w: %s", err, tail(out))
		}
		return writeLayer(ctx, filepath.Join(tmp, "layer.tar"), root, nil)
	})
	if err != nil {
		return imageRecord{}, fmt.Errorf("pause image: %w", err)
	}
	return imageRecord{Ref: pauseRef, Layer: made, Config: ocispec.ImageConfig{Entrypoint: []string{"/pause"}}}, nil
}

// importImage gives an image to the node, unless it has it, and returns when its CRI knows it.
func (n *Node) importImage(ctx context.Context, r imageRecord) error {
	archive, config, err := r.archive()
	if err != nil {
		return fmt.Errorf("image %s: %w", r.Ref, err)
	}
	defer archive.Close()
	images, err := n.Images()
	if err != nil {
		return err
	}
	known := func() (bool, error) {
		got, err := images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: r.Ref}})
		return err == nil && got.GetImage().GetId() == config, nil
	}
	if has, _ := known(); has {
		return nil
	}
	cmd := n.Command(ctx, "ctr", "-n", "k8s.io", "images", "import", "--local", "-")
	cmd.Stdin = archive
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("image %s: import to node %s: %w: %s", r.Ref, n.Name, err, tail(out))
	}
	if err := poll(ctx, known); err != nil {
		return fmt.Errorf("image %s: node %s does not know it after its import: %w", r.Ref, n.Name, err)
	}
	return nil
}

// archive streams the image as an OCI archive, and says the digest of its configuration, which is CRI's image ID.
func (r imageRecord) archive() (io.ReadCloser, string, error) {
	f, err := os.Open(r.Layer.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("its layer is gone from the cache, add it again: %w", err)
	}
	if err != nil {
		return nil, "", err
	}
	config, err := ociarchive.Config(runtime.GOARCH, r.Config, r.Layer.Digest)
	if err != nil {
		return nil, "", err
	}
	pr, pw := io.Pipe()
	go func() { // ends when the archive is written or closed by its reader
		defer f.Close()
		image := ociarchive.Image{Ref: r.Ref, Config: config, LayerDigest: r.Layer.Digest, LayerSize: r.Layer.Size}
		pw.CloseWithError(ociarchive.Write(pw, image, f))
	}()
	return pr, ociarchive.Digest(config), nil
}

// Image is an image that a node has.
type Image struct {
	Node string `json:"node"`
	Ref  string `json:"image"`
	ID   string `json:"id"` // digest of its configuration
	Size uint64 `json:"size_bytes"`
}

// ListImages lists the node's images as its CRI knows them.
func (n *Node) ListImages(ctx context.Context) ([]Image, error) {
	client, err := n.Images()
	if err != nil {
		return nil, err
	}
	list, err := client.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("images of node %s: %w", n.Name, err)
	}
	var all []Image
	for _, i := range list.Images {
		for _, ref := range i.RepoTags {
			all = append(all, Image{Node: n.Name, Ref: ref, ID: i.Id, Size: i.Size})
		}
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Ref, b.Ref) })
	return all, nil
}
