package criu

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"godwit.dev/godwit/test/criunode"
)

// inNode runs commands in a small machine that has criu.
func inNode(t *testing.T) func(context.Context, *exec.Cmd) error {
	t.Helper()
	node, err := criunode.New(t.TempDir())
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	return func(ctx context.Context, cmd *exec.Cmd) error {
		inside := node.Command(ctx, cmd.Args...)
		inside.ExtraFiles = cmd.ExtraFiles
		return inside.Run()
	}
}

func TestCRIUAnswersAndEnds(t *testing.T) {
	s := service{run: inNode(t), hangUp: func() {}, letGo: time.Second}
	resp, err := s.ask(t.Context(), &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()})
	if err != nil {
		t.Fatal(err)
	}
	if err := refused(resp); err != nil || resp.GetVersion().GetMajorNumber() < 3 {
		t.Errorf("%v, version %v", err, resp.GetVersion())
	}
}

func TestARefusalSaysWhy(t *testing.T) {
	s := service{run: inNode(t), hangUp: func() {}, letGo: time.Second}
	// A pre-dump needs a directory for its images.
	resp, err := s.ask(t.Context(), &rpc.CriuReq{
		Type: rpc.CriuReqType_PRE_DUMP.Enum(), Opts: &rpc.CriuOpts{ImagesDirFd: proto.Int32(-1)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := refused(resp); err == nil || !strings.HasPrefix(err.Error(), "CRIU failed: ") {
		t.Errorf("%v", err)
	}
}

func TestACRIUThatCannotRunIsAnError(t *testing.T) {
	missing := errors.New("no such program")
	s := service{
		run:    func(context.Context, *exec.Cmd) error { return missing },
		hangUp: func() {}, letGo: time.Second,
	}
	if _, err := s.ask(t.Context(), &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()}); !errors.Is(err, missing) {
		t.Errorf("%v", err)
	}
}

func TestACRIUThatHangsIsKilledOnceItWasAskedToGo(t *testing.T) {
	hungUp := make(chan struct{})
	s := service{
		run: func(ctx context.Context, _ *exec.Cmd) error {
			<-ctx.Done()
			return errors.New("killed")
		},
		hangUp: func() { close(hungUp) }, letGo: 10 * time.Millisecond,
	}
	cause := errors.New("the migration was aborted")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(cause) })
	if _, err := s.ask(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum()}); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	<-hungUp
}
