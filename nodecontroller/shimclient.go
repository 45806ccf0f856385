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
	"golang.org/x/sys/unix"

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

// dialShim connects to the shim of a sandbox. Its error wraps errShimGone if nobody listens there; another one, such as that
// of ctx, says nothing of the shim.
func (d *Daemon) dialShim(ctx context.Context, sandbox string) (*shimClient, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "unix", d.shimSocket(sandbox))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("shim of pod sandbox %.12s: %w: %w", sandbox, errShimGone, err)
	}
	if err != nil {
		return nil, fmt.Errorf("shim of pod sandbox %.12s: %w", sandbox, err)
	}
	client := ttrpc.NewClient(conn)
	return &shimClient{MigrationClient: shimv1.NewMigrationClient(client), conn: client}, nil
}

func (s *shimClient) close() { s.conn.Close() }

// askShim returns what the shim of a sandbox says of a migration. An error means
// that it could not be asked now: whether it is dead is not known then.
func (d *Daemon) askShim(ctx context.Context, sandbox, migration string) (shimAnswer, error) {
	if sandbox == "" {
		return shimUnreachable, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := d.dialShim(ctx, sandbox)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return shimUnreachable, nil
	}
	if err != nil {
		return shimUnreachable, err
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: migration})
	if err != nil {
		return shimUnreachable, fmt.Errorf("shim of pod sandbox %.12s: %w", sandbox, plain(err))
	}
	p, err := stream.Recv()
	switch {
	case err == nil:
		return answerOf(p.State), nil
	case isCode(err, errdefs.IsNotFound):
		return shimUnknown, nil
	}
	return shimUnreachable, fmt.Errorf("shim of pod sandbox %.12s: %w", sandbox, plain(err))
}

// isCode says whether a call over ttrpc failed for the reason that is tests.
func isCode(err error, is func(error) bool) bool {
	return err != nil && is(errgrpc.ToNative(err))
}

// abortShim asks the shim of a sandbox to end its part.
func (d *Daemon) abortShim(ctx context.Context, sandbox, migration, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := d.dialShim(ctx, sandbox)
	if err != nil {
		return err
	}
	defer s.close()
	_, err = s.Abort(ctx, &shimv1.AbortRequest{Migration: migration, Reason: reason})
	return err
}

// resumeShim has the held containers run, and returns when they did.
func (d *Daemon) resumeShim(ctx context.Context, sandbox, migration string) (*shimv1.ResumeResponse, error) {
	// Once begun it is not to be given up because a caller went away.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	s, err := d.dialShim(ctx, sandbox)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return s.Resume(ctx, &shimv1.ResumeRequest{Migration: migration})
}

// soonResumed is how long a resume may take until somebody looks what goes wrong with it: to ask costs the processors that the pod waits for.
const soonResumed = 500 * time.Millisecond

// whileResuming tells what goes wrong with a resume that is under way and takes long, until ctx ends.
func (d *Daemon) whileResuming(ctx context.Context, sandbox, migration string, tell func(trouble string)) {
	if pause(ctx, soonResumed) != nil {
		return
	}
	s, err := d.dialShim(ctx, sandbox)
	if err != nil {
		return
	}
	defer s.close()
	stream, err := s.Watch(ctx, &shimv1.WatchRequest{Migration: migration})
	if err != nil {
		return
	}
	told := ""
	for {
		p, err := stream.Recv()
		if err != nil {
			return
		}
		if p.Trouble != "" && p.Trouble != told {
			told = p.Trouble
			tell(told)
		}
	}
}
