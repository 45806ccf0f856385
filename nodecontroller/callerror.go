package nodecontroller

import (
	"errors"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	"godwit.dev/godwit/cri"
)

// plain is the error of a call to a peer or a shim, without what the transport
// wrapped around its text; errdefs' sentinels are still found in it.
func plain(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &callError{text: s.Message(), cause: errgrpc.ToNative(err)}
}

type callError struct {
	text  string
	cause error
}

func (e *callError) Error() string { return e.text }
func (e *callError) Unwrap() error { return e.cause }

// answer gives an error of ours the code that tells a caller what to do.
func answer(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cri.ErrNoPod):
		return errgrpc.ToGRPCf(errdefs.ErrNotFound, "%v", err)
	case errors.Is(err, ErrCommitted), errors.Is(err, cri.ErrImmovable), errors.Is(err, cri.ErrAmbiguous), errors.Is(err, ErrUnknownPeer):
		return errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "%v", err)
	}
	return errgrpc.ToGRPC(err)
}
