package nodecontroller

import (
	"context"
	"time"

	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/preflight"
)

// Facts are what this node is now and what its checks find, for the cluster to
// know. It takes seconds: CRIU checks itself.
func (d *Daemon) Facts(ctx context.Context) nodefacts.Facts {
	return nodefacts.New(d.self(ctx), d.probe(ctx))
}

// probe runs the checks of this node.
func (d *Daemon) probe(ctx context.Context) []preflight.Finding {
	return preflight.Run(ctx, &preflight.Node{
		Name:     d.config.NodeName,
		PKIDir:   d.config.PKIDir,
		StateDir: d.config.StateDir,
		CRI:      d.cri,
		Now:      time.Now(),
	})
}
