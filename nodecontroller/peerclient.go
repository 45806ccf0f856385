package nodecontroller

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/pagestream/wire"
)

// dialTimeout bounds the making of a connection to a peer.
const dialTimeout = 10 * time.Second

// peerClient is a control connection to a peer.
type peerClient struct {
	peerv1.PeerService
	name   string
	client *ttrpc.Client
}

// dialPeer connects to the peer of this name, whose certificate must bear it.
func (d *Daemon) dialPeer(ctx context.Context, name, address string) (*peerClient, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var conn net.Conn
	conn, err := wire.DialControl(ctx, address, name, d.creds)
	if err != nil {
		return nil, fmt.Errorf("peer %s at %s: %w", name, address, err)
	}
	client := ttrpc.NewClient(conn)
	return &peerClient{PeerService: peerv1.NewPeerClient(client), name: name, client: client}, nil
}

func (p *peerClient) close() { p.client.Close() }

// askStage returns how far the destination at address is with a migration.
func (d *Daemon) askStage(ctx context.Context, name, address, migration string) peerAnswer {
	p, err := d.dialPeer(ctx, name, address)
	if err != nil {
		return peerUnreachable
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := p.Ping(ctx, &peerv1.PingRequest{Migration: migration})
	switch {
	case isCode(err, errdefs.IsNotFound):
		return peerUnknown
	case err != nil:
		return peerUnreachable
	}
	return peerAnswerOf(r.Stage)
}

// askOutcome returns what the source at address decided, OUTCOME_UNSPECIFIED if
// it cannot be reached.
func (d *Daemon) askOutcome(ctx context.Context, name, address, migration string) peerv1.Outcome {
	p, err := d.dialPeer(ctx, name, address)
	if err != nil {
		return peerv1.Outcome_OUTCOME_UNSPECIFIED
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := p.Outcome(ctx, &peerv1.OutcomeRequest{Migration: migration})
	if err != nil {
		return peerv1.Outcome_OUTCOME_UNSPECIFIED
	}
	return r.Outcome
}
