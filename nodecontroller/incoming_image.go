package nodecontroller

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
)

// maxImage bounds what an image may take on this node's disk while it comes in,
// bytes.
const maxImage = 32 << 30

// image returns one of the pod's images.
func (m *incoming) image(id string) (cri.Image, error) {
	for _, i := range m.images {
		if i.ID == id {
			return i, nil
		}
	}
	return cri.Image{}, fmt.Errorf("image %q is none of the pod's: %w", id, errdefs.ErrInvalidArgument)
}

// archive is where an image is kept while it comes in.
func (m *incoming) archive(id string) string {
	return filepath.Join(m.d.imageDir(m.id), strings.TrimPrefix(id, "sha256:")+".tar")
}

func (d *Daemon) imageDir(migration string) string {
	return filepath.Join(d.config.StateDir, "images", migration)
}

// putImage writes one piece of an image. Pieces come side by side.
func (m *incoming) putImage(id string, offset uint64, data []byte) error {
	m.hear()
	if _, err := m.image(id); err != nil {
		return err
	}
	if m.alive.Err() != nil || m.stage() != m.making() {
		return fmt.Errorf("migration %s takes no images now: %w", m.id, errdefs.ErrFailedPrecondition)
	}
	if len(data) > imagePiece || offset > maxImage-imagePiece {
		return fmt.Errorf("image %s: %d bytes at %d: more than %d: %w", id, len(data), offset, uint64(maxImage), errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(m.d.imageDir(m.id), 0o700); err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	f, err := os.OpenFile(m.archive(id), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	_, err = f.WriteAt(data, int64(offset))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	return nil
}

// importImage puts an image that came in whole into containerd's store.
func (m *incoming) importImage(ctx context.Context, id string, size uint64) error {
	i, err := m.image(id)
	if err != nil {
		return err
	}
	m.say("importing image " + imageName(i))
	f, err := os.Open(m.archive(id))
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	if uint64(fi.Size()) != size {
		return fmt.Errorf("image %s: %d bytes came, %d were sent", id, fi.Size(), size)
	}
	if err := m.note(func(r *record) { r.Images = append(r.Images, id) }); err != nil {
		return err
	}
	return m.d.cri.Import(ctx, i, f)
}
