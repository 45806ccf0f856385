package nodecontroller

import (
	"context"
	"fmt"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
)

// check probes this node, and a peer if one is named: that it can be reached
// and that pods of this node can run there.
func (d *Daemon) check(ctx context.Context, peer string) ([]*nodev1.Finding, error) {
	found := d.probe(ctx)
	if peer != "" {
		f, err := d.checkPeer(ctx, peer)
		if err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	findings := make([]*nodev1.Finding, len(found))
	for i, f := range found {
		findings[i] = &nodev1.Finding{Feature: f.Feature, Status: string(f.Status), Detail: f.Detail, Remedy: f.Remedy}
	}
	return findings, nil
}

func (d *Daemon) checkPeer(ctx context.Context, peer string) (preflight.Finding, error) {
	f := preflight.Finding{Feature: "peer " + peer, Status: preflight.Missing}
	address, err := d.peers.lookup(peer)
	if err != nil {
		return f, err
	}
	p, err := d.dialPeer(ctx, peer, address)
	if err != nil {
		f.Detail, f.Remedy = err.Error(), "See that godwit-node runs there, that its port can be reached, and that both certificates are of one authority."
		return f, nil
	}
	defer p.close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	r, err := p.Describe(ctx, &peerv1.DescribeRequest{})
	if err != nil {
		f.Detail = plain(err).Error()
		return f, nil
	}
	if err := compatible(d.self(ctx), r.Node); err != nil {
		f.Detail = err.Error()
		return f, nil
	}
	f.Status = preflight.OK
	f.Detail = fmt.Sprintf("version %s, kernel %s, CRIU %s; room for %d MiB", r.Node.Version, r.Node.Kernel, r.Node.Criu, r.StoreFree>>20)
	return f, nil
}
