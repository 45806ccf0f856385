package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// errShimGone is wrapped when a pod's shim does not listen: it is dead, or never
// served a migration.
var errShimGone = errors.New("the pod's shim does not answer")

// shimClient is a connection to one pod's shim.
type shimClient struct {
	shimv1.MigrationClient
	conn *ttrpc.Client
}

// dialShim connects to the shim of a sandbox. Its error wraps errShimGone.
func dialShim(ctx context.Context, sandbox string) (*shimClient, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "unix", shimv1.SocketPath(sandbox))
	if err != nil {
		return nil, fmt.Errorf("shim of pod sandbox %.12s: %w: %w", sandbox, errShimGone, err)
	}
	client := ttrpc.NewClient(conn)
	return &shimClient{MigrationClient: shimv1.NewMigrationClient(client), conn: client}, nil
}

func (s *shimClient) close() { s.conn.Close() }

// askShim returns what the shim of a sandbox says of a migration. An error is
// returned only if ctx ended first.
func askShim(ctx context.Context, sandbox, migration string) (shimAnswer, error) {
	if sandbox == "" {
		return shimUnreachable, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := dialShim(ctx, sandbox)
	if err != nil {
		return shimUnreachable, nil
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: migration})
	if err != nil {
		return shimUnreachable, nil
	}
	p, err := stream.Recv()
	switch {
	case err == nil:
		return answerOf(p.State), nil
	case errdefs.IsNotFound(errgrpc.ToNative(err)):
		return shimUnknown, nil
	case ctx.Err() != nil:
		return shimUnreachable, fmt.Errorf("shim of pod sandbox %.12s: %w", sandbox, ctx.Err())
	}
	return shimUnreachable, nil
}

// isCode says whether a call over ttrpc failed for the reason that is tests.
func isCode(err error, is func(error) bool) bool {
	return err != nil && is(errgrpc.ToNative(err))
}
