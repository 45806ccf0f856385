package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrWrongImage is returned when what was imported or pulled is not the image
// that was asked for.
var ErrWrongImage = errors.New("not the image that was asked for")

// Image is an image by what is in it.
type Image struct {
	ID          string   `json:"id"`           // digest of its configuration
	Target      string   `json:"target"`       // digest of its manifest or index
	Names       []string `json:"names"`        // names with tags
	RepoDigests []string `json:"repo_digests"` // names with digests
}

// Valid bounds an Image that came from a peer.
func (i Image) Valid() error {
	if !isDigest(i.ID) || !isDigest(i.Target) {
		return fmt.Errorf("image %q with target %q: ids must be sha256 digests", i.ID, i.Target)
	}
	if len(i.Names)+len(i.RepoDigests) > 256 {
		return fmt.Errorf("image %s has more than 256 names", i.ID)
	}
	return nil
}

// Image returns the image with this id. errdefs.ErrNotFound is wrapped if the
// node does not have it.
func (c *Client) Image(ctx context.Context, id string) (Image, error) {
	r, err := c.images.ImageStatus(ctx, &runtimev1.ImageStatusRequest{Image: &runtimev1.ImageSpec{Image: id}})
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", id, err)
	}
	if r.Image == nil || r.Image.Id != id {
		return Image{}, fmt.Errorf("image %s: %w", id, errdefs.ErrNotFound)
	}
	// containerd's CRI service keeps every image under its id as well
	// (internal/cri/server/images, createOrUpdateImageReference).
	stored, err := c.containerd.ImageService().Get(ctx, id)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", id, err)
	}
	return Image{ID: id, Target: stored.Target.Digest.String(), Names: r.Image.RepoTags, RepoDigests: r.Image.RepoDigests}, nil
}

// Pull gets an image from a registry by one of its digests.
func (c *Client) Pull(ctx context.Context, i Image) error {
	err := fmt.Errorf("image %s has no name in a registry: %w", i.ID, errdefs.ErrNotFound)
	for _, ref := range i.RepoDigests {
		var r *runtimev1.PullImageResponse
		r, err = c.images.PullImage(ctx, &runtimev1.PullImageRequest{Image: &runtimev1.ImageSpec{Image: ref}})
		switch {
		case err != nil:
			err = fmt.Errorf("pull image %s: %w", ref, err)
		case r.ImageRef != i.ID:
			err = fmt.Errorf("pull image %s: has id %s: %w", ref, r.ImageRef, ErrWrongImage)
		default:
			return nil
		}
	}
	return err
}

// Export writes the image, for this platform, as an OCI archive.
func (c *Client) Export(ctx context.Context, i Image, w io.Writer) error {
	stored, err := c.containerd.ImageService().Get(ctx, i.ID)
	if err != nil {
		return fmt.Errorf("export image %s: %w", i.ID, err)
	}
	platform := platforms.DefaultStrict()
	err = c.containerd.Export(ctx, w,
		archive.WithManifest(stored.Target),
		archive.WithPlatform(platform),
		archive.WithSkipDockerManifest())
	if err != nil {
		return fmt.Errorf("export image %s: %w", i.ID, err)
	}
	return nil
}

// Import reads an OCI archive and keeps the image under names that bear its
// digest: no tag of this node changes its meaning. It returns when CRI knows
// the image by its id. ErrWrongImage is wrapped if the archive holds another.
func (c *Client) Import(ctx context.Context, i Image, r io.Reader) error {
	names := digestNames(i)
	imported, err := c.containerd.Import(ctx, r,
		containerd.WithImageRefTranslator(func(string) string { return "" }),
		containerd.WithDigestRef(func(d digest.Digest) string {
			if d.String() != i.Target {
				return ""
			}
			return names[0]
		}),
		containerd.WithImportPlatform(platforms.DefaultStrict()),
		containerd.WithSkipMissing())
	if err != nil {
		return fmt.Errorf("import image %s: %w", i.ID, err)
	}
	if len(imported) != 1 {
		return fmt.Errorf("import image %s: archive holds no manifest %s: %w", i.ID, i.Target, ErrWrongImage)
	}
	img := containerd.NewImageWithPlatform(c.containerd, imported[0], platforms.DefaultStrict())
	config, err := img.Config(ctx)
	if err == nil && config.Digest.String() != i.ID {
		err = fmt.Errorf("its id is %s: %w", config.Digest, ErrWrongImage)
	}
	if err == nil {
		err = c.addNames(ctx, imported[0], names[1:])
	}
	if err != nil {
		_ = c.containerd.ImageService().Delete(context.WithoutCancel(ctx), imported[0].Name)
		return fmt.Errorf("import image %s: %w", i.ID, err)
	}
	return c.awaitImage(ctx, i.ID)
}

// addNames keeps an image under more names.
func (c *Client) addNames(ctx context.Context, img images.Image, names []string) error {
	for _, name := range names {
		img.Name = name
		if _, err := c.containerd.ImageService().Create(ctx, img); err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("name %s: %w", name, err)
		}
	}
	return nil
}

// unnamed is the repository of an image that has no name at its source.
const unnamed = "godwit.dev/moved"

// digestNames are the names under which an imported image is kept: each of its
// repositories with its digest; at least one.
func digestNames(i Image) []string {
	seen := make(map[string]bool)
	var names []string
	for _, name := range append(append([]string{}, i.Names...), i.RepoDigests...) {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		canonical := ref.Name() + "@" + i.Target
		if !seen[canonical] {
			seen[canonical] = true
			names = append(names, canonical)
		}
	}
	if len(names) == 0 {
		names = append(names, unnamed+"@"+i.Target)
	}
	return names
}

// awaitImage waits until CRI knows the image: it learns of images from
// containerd's events, and offers none of its own.
func (c *Client) awaitImage(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := c.Image(ctx, id); err == nil {
			return nil
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("image %s was imported, but CRI does not learn of it: %w", id, ctx.Err())
		case <-tick.C:
		}
	}
}

// RemoveImage removes an image under all its names. An image that is gone
// already is no error.
func (c *Client) RemoveImage(ctx context.Context, id string) error {
	_, err := c.images.RemoveImage(ctx, &runtimev1.RemoveImageRequest{Image: &runtimev1.ImageSpec{Image: id}})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("remove image %s: %w", id, err)
	}
	return nil
}

// ImageInUse says whether any container of the node, running or not, is of the
// image with this id.
func (c *Client) ImageInUse(ctx context.Context, id string) (bool, error) {
	r, err := c.runtime.ListContainers(ctx, &runtimev1.ListContainersRequest{})
	if err != nil {
		return false, fmt.Errorf("list containers: %w", err)
	}
	for _, ct := range r.Containers {
		// ImageRef is the image's id for every container that CRI made
		// (internal/cri/server/container_list.go).
		if ct.ImageRef == id || ct.ImageId == id || ct.GetImage().GetImage() == id {
			return true, nil
		}
	}
	return false, nil
}
