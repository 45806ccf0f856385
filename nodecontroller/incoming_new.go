package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"godwit.dev/godwit/cri"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// maxVolumes bounds the volumes of one pod.
const maxVolumes = 256

// newIncoming checks what a peer asks for. Nothing is made yet.
func (d *Daemon) newIncoming(ctx context.Context, req *peerv1.PrepareRequest, peer string) (*incoming, error) {
	invalid := func(err error) error { return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument) }
	if !migrationID.MatchString(req.Migration) {
		return nil, invalid(errors.New("malformed migration id"))
	}
	if len(req.Token) != tokenSize {
		return nil, invalid(fmt.Errorf("token of %d bytes, not %d", len(req.Token), tokenSize))
	}
	if req.Source == nil || req.Source.Name != peer {
		return nil, invalid(fmt.Errorf("node %s asks in the name of %q", peer, req.GetSource().GetName()))
	}
	if err := compatible(req.Source, d.self(ctx)); err != nil {
		return nil, err
	}
	description, err := cri.DecodeDescription(req.Description)
	if err != nil {
		return nil, invalid(err)
	}
	images, err := imagesOf(req, description)
	if err != nil {
		return nil, invalid(err)
	}
	if len(req.Volumes) > maxVolumes || len(req.Volumes) > 0 && !req.Kubelet {
		return nil, invalid(fmt.Errorf("%d volumes: a pod that kubelet makes has %d at most, any other none", len(req.Volumes), maxVolumes))
	}
	if req.LatePod && !req.Kubelet {
		return nil, invalid(errors.New("only kubelet's pod can come late"))
	}
	pod := description.Sandbox.Metadata.Namespace + "/" + description.Sandbox.Metadata.Name
	m := d.blankIncoming(record{
		Migration:   req.Migration,
		Stage:       destinationPreparing,
		Pod:         pod,
		Peer:        peer,
		Address:     req.Source.Address,
		Started:     time.Now(),
		Description: req.Description,
		Kubelet:     req.Kubelet,
		LatePod:     req.LatePod,
		Volumes:     req.Volumes,
		Admission:   admissionOf(req, description),
	}, d.log.With("migration", req.Migration, "pod", pod, "from", peer))
	m.source, m.token = req.Source, [tokenSize]byte(req.Token)
	m.description, m.images, m.compares = description, images, req.CompareDump
	m.hear()
	return m, nil
}

// admissionOf is what the shim is told of a pod.
func admissionOf(req *peerv1.PrepareRequest, d *cri.Description) shimv1.Admission {
	if !req.Kubelet {
		return shimv1.Admission{}
	}
	return shimv1.Admission{AnswerEarly: true, ExpectedContainers: len(d.Containers)}
}

// imagesOf checks that every container's image is among those of the request.
func imagesOf(req *peerv1.PrepareRequest, d *cri.Description) ([]cri.Image, error) {
	known := make(map[string]bool)
	var images []cri.Image
	for _, i := range req.Images {
		image := cri.Image{ID: i.GetId(), Target: i.GetTarget(), Names: i.GetNames(), RepoDigests: i.GetRepoDigests()}
		if err := image.Valid(); err != nil {
			return nil, err
		}
		known[image.ID] = true
		images = append(images, image)
	}
	for _, c := range d.Containers {
		if !known[c.Image] {
			return nil, fmt.Errorf("container %s: image %s is not described", c.Name(), c.Image)
		}
	}
	if len(images) > len(d.Containers) {
		return nil, fmt.Errorf("%d images for %d containers", len(images), len(d.Containers))
	}
	return images, nil
}

func (d *Daemon) blankIncoming(r record, log *slog.Logger) *incoming {
	m := &incoming{
		d:        d,
		id:       r.Migration,
		storeDir: d.storePath(r.Migration),
		kubelet:  r.Kubelet,
		late:     r.LatePod,
		volumes:  r.Volumes,
		memory:   r.Memory,
		started:  r.Started,
		log:      log,
		done:     make(chan struct{}),
		dropped:  make(chan struct{}),
		record:   r,
		verdict:  make(chan peerv1.Outcome, 1),
		ran:      make(chan struct{}),
		owned:    make(chan struct{}),
		told:     make(chan struct{}),
	}
	m.alive, m.fail = context.WithCancelCause(d.life)
	return m
}

// resumeIncoming carries on with a destination's part that an earlier daemon
// left: no call of the source gets through to it any more but the decision. One that
// waits for its pod goes on to do so.
func (d *Daemon) resumeIncoming(r record, log *slog.Logger) {
	m := d.blankIncoming(r, log)
	m.source = &peerv1.Node{Name: r.Peer, Address: r.Address}
	if description, err := cri.DecodeDescription(r.Description); err == nil {
		m.description = description
	}
	if r.Stage == destinationAwaiting {
		m.own()
	} else {
		m.fail(errors.New("the destination's daemon restarted"))
	}
	d.mu.Lock()
	d.incoming[m.id] = m
	d.mu.Unlock()
	d.work.Go(func() { m.run(d.life) })
}
