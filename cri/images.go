package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
	i := Image{ID: id, Names: r.Image.RepoTags, RepoDigests: r.Image.RepoDigests}
	stored, err := c.stored(ctx, i)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", id, err)
	}
	i.Target = stored.Target.Digest.String()
	return i, nil
}

// stored is the image as containerd keeps it. Its CRI service keeps every image
// under its id as well (internal/cri/server/images, createOrUpdateImageReference),
// except one that took over another's tag: UpdateImage there does nothing for a
// name that bears CRI's label already.
func (c *Client) stored(ctx context.Context, i Image) (images.Image, error) {
	var first error
	for _, name := range slices.Concat([]string{i.ID}, i.Names, i.RepoDigests) {
		stored, err := c.containerd.ImageService().Get(ctx, name)
		if err == nil {
			return stored, nil
		}
		if first == nil {
			first = err
		}
	}
	return images.Image{}, first
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
	stored, err := c.stored(ctx, i)
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
// digest. Nothing that the archive says of names counts: no tag of this node
// changes its meaning. It returns when CRI knows the image by its id.
// ErrWrongImage is wrapped if the archive holds another.
func (c *Client) Import(ctx context.Context, i Image, r io.Reader) error {
	// What the archive brings is kept from garbage collection until named.
	ctx, done, err := c.containerd.WithLease(ctx)
	if err != nil {
		return fmt.Errorf("import image %s: %w", i.ID, err)
	}
	defer done(context.WithoutCancel(ctx))
	index, err := archive.ImportIndex(ctx, c.containerd.ContentStore(), r)
	if err != nil {
		return fmt.Errorf("import image %s: %w", i.ID, err)
	}
	target, err := c.adopt(ctx, index, i)
	if err != nil {
		return fmt.Errorf("import image %s: %w", i.ID, err)
	}
	for _, name := range digestNames(i) {
		_, err := c.containerd.ImageService().Create(ctx, images.Image{Name: name, Target: target})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("import image %s: name %s: %w", i.ID, name, err)
		}
	}
	return c.awaitImage(ctx, i.ID)
}

// adopt finds the image's target in an archive's index, sees that it is the
// image, whole, and ties its parts together.
func (c *Client) adopt(ctx context.Context, index ocispec.Descriptor, i Image) (ocispec.Descriptor, error) {
	store := c.containerd.ContentStore()
	blob, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(blob, &idx); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index of the archive: %w", err)
	}
	at := slices.IndexFunc(idx.Manifests, func(d ocispec.Descriptor) bool { return d.Digest.String() == i.Target })
	if at < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("archive holds no %s: %w", i.Target, ErrWrongImage)
	}
	target := ocispec.Descriptor{MediaType: idx.Manifests[at].MediaType, Digest: idx.Manifests[at].Digest, Size: idx.Manifests[at].Size}
	platform := platforms.DefaultStrict()
	config, err := images.Config(ctx, store, target, platform)
	if err != nil {
		return target, err
	}
	if config.Digest.String() != i.ID {
		return target, fmt.Errorf("its id is %s: %w", config.Digest, ErrWrongImage)
	}
	parts := images.SetChildrenLabels(store, images.FilterPlatforms(images.ChildrenHandler(store), platform))
	if err := images.WalkNotEmpty(ctx, parts, target); err != nil {
		return target, err
	}
	_, _, _, missing, err := images.Check(ctx, store, target, platform)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("archive lacks %d parts of it: %w", len(missing), ErrWrongImage)
	}
	return target, err
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

// Pinned is a name of the image that means it and no other, on every node to which
// it was moved.
func (i Image) Pinned() string { return digestNames(i)[0] }

// NameImage gives an image that this node has the names that Import would have given
// it. A manifest that is another here keeps its own: a peer says what the names are,
// and no name of this node may come to mean something else.
func (c *Client) NameImage(ctx context.Context, i Image) error {
	stored, err := c.stored(ctx, i)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.ID, err)
	}
	if stored.Target.Digest.String() != i.Target {
		return nil
	}
	for _, name := range digestNames(i) {
		_, err := c.containerd.ImageService().Create(ctx, images.Image{Name: name, Target: stored.Target})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("image %s: name %s: %w", i.ID, name, err)
		}
	}
	return nil
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
