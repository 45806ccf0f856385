package nodecontroller

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/cri"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

const (
	// imagePiece is how much of an image one call carries, bytes.
	imagePiece = 1 << 20
	// imageWindow is how many pieces are under way at a time: what keeps a link
	// of a gigabit and tens of milliseconds busy.
	imageWindow = 8
)

// sendImage exports an image from this node's content store to the destination,
// over a connection of its own: heartbeats must not wait behind it.
func (m *outgoing) sendImage(ctx context.Context, i cri.Image) error {
	m.tell("image", "sending image "+imageName(i))
	p, err := m.d.dialPeer(ctx, m.request.To, m.address)
	if err != nil {
		return err
	}
	defer p.close()

	read, write := io.Pipe()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := m.d.cri.Export(ctx, i, write)
		write.CloseWithError(err)
		return err
	})
	var size uint64
	group.Go(func() (err error) {
		size, err = m.putImage(ctx, p, i.ID, read)
		read.CloseWithError(err)
		return err
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("send image %s: %w", imageName(i), err)
	}
	// group's context ended with it
	if _, err := p.ImportImage(m.undecided, &peerv1.ImportImageRequest{Migration: m.id, Image: i.ID, Size: size}); err != nil {
		return fmt.Errorf("node %s: %w", m.request.To, plain(err))
	}
	return nil
}

// putImage sends what it reads, in pieces, and returns how much it was.
func (m *outgoing) putImage(ctx context.Context, p *peerClient, image string, r io.Reader) (uint64, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(imageWindow)
	var offset uint64
	for ctx.Err() == nil {
		piece := make([]byte, imagePiece)
		n, err := io.ReadFull(r, piece)
		if n > 0 {
			req := &peerv1.PutImageRequest{Migration: m.id, Image: image, Offset: offset, Data: piece[:n]}
			group.Go(func() error {
				_, err := p.PutImage(ctx, req)
				return plain(err)
			})
			offset += uint64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			_ = group.Wait()
			return offset, err
		}
	}
	return offset, group.Wait()
}

func imageName(i cri.Image) string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	if len(i.RepoDigests) > 0 {
		return i.RepoDigests[0]
	}
	return i.ID
}
