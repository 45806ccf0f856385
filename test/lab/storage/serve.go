package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// ServeController is the controller side, on the machine of the control plane, until ctx ends.
func ServeController(ctx context.Context, log *slog.Logger) error {
	server := newServer(log)
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterControllerServer(server, controller{pool: Open(Dir)})
	listener, err := listen(ctx, ControllerSocket)
	if err != nil {
		return err
	}
	return serve(ctx, server, listener)
}

// ServeNode is the side of a node, until ctx ends, or until kubelet does not take the driver: it does not ask a second time, unless
// it finds a new socket. kubelet finds it, now or when it starts.
func ServeNode(ctx context.Context, name string, log *slog.Logger) error {
	server := newServer(log)
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterNodeServer(server, node{pool: Open(Dir), name: name})
	door := newServer(log)
	refused := make(chan error, 1)
	registration.RegisterRegistrationServer(door, registrar{log: log, refused: refused})

	listener, err := listen(ctx, nodeSocket)
	if err != nil {
		return err
	}
	defer listener.Close()
	announced, err := listen(ctx, registrationSocket) // kubelet asks the other as soon as it sees this one
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serve(ctx, server, listener) })
	g.Go(func() error { return serve(ctx, door, announced) })
	g.Go(func() error {
		select {
		case err := <-refused:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// newServer logs each call that changes something, or fails.
func newServer(log *slog.Logger) *grpc.Server {
	return grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		response, err := handle(ctx, request)
		method := filepath.Base(call.FullMethod)
		volume, changes := request.(interface{ GetVolumeId() string })
		switch {
		case err != nil:
			log.Error(method, "error", err)
		case changes:
			log.Info(method, "volume", volume.GetVolumeId())
		}
		return response, err
	}))
}

// listen listens on a unix socket, in the place of one that an earlier process may have left.
func listen(ctx context.Context, socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return listener, nil
}

// serve answers until ctx ends.
func serve(ctx context.Context, server *grpc.Server, listener net.Listener) error {
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(listener)
}

// registrar tells kubelet of the driver.
type registrar struct {
	registration.UnimplementedRegistrationServer
	log     *slog.Logger
	refused chan<- error // takes the first refusal
}

func (registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: DriverName, Endpoint: nodeSocket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.log.Info("kubelet has the driver")
		return &registration.RegistrationStatusResponse{}, nil
	}
	select {
	case r.refused <- fmt.Errorf("kubelet does not take the driver: %s", s.GetError()):
	default:
	}
	return &registration.RegistrationStatusResponse{}, nil
}
