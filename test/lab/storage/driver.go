package storage

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// identity answers what both sides of the driver are asked.
type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: DriverName, VendorVersion: "1"}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}}}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// controller attaches and detaches.
type controller struct {
	csi.UnimplementedControllerServer
	pool Pool
}

func (controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	var all []*csi.ControllerServiceCapability
	for _, t := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME, csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		all = append(all, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: t}}})
	}
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: all}, nil
}

func (c controller) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := c.pool.allows(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, answer(err)
	}
	if err := c.pool.Attach(ctx, r.GetVolumeId(), r.GetNodeId()); err != nil {
		return nil, answer(err)
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (c controller) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	err := c.pool.Detach(ctx, r.GetVolumeId(), r.GetNodeId())
	if err != nil && !errors.Is(err, ErrNoVolume) { // one that is gone is attached nowhere
		return nil, answer(err)
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// node mounts on the node that it runs on.
type node struct {
	csi.UnimplementedNodeServer
	pool Pool
	name string
}

func (n node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.name}, nil
}

func (node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var all []*csi.NodeServiceCapability
	for _, t := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		all = append(all, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: t}}})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: all}, nil
}

func (n node) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := n.pool.allows(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, answer(err)
	}
	if err := n.pool.stage(ctx, r.GetVolumeId(), n.name, r.GetStagingTargetPath()); err != nil {
		return nil, answer(err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func (n node) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := n.pool.unstage(ctx, r.GetVolumeId(), r.GetStagingTargetPath()); err != nil {
		return nil, answer(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (n node) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := n.pool.allows(r.GetVolumeId(), r.GetVolumeCapability()); err != nil {
		return nil, answer(err)
	}
	if err := publish(r.GetStagingTargetPath(), r.GetTargetPath(), r.GetReadonly()); err != nil {
		return nil, answer(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unpublish(r.GetTargetPath()); err != nil {
		return nil, answer(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// errCapability is returned for what a volume is not.
var errCapability = errors.New("the volume cannot be used so")

// allows says why a volume cannot be had in a way: a raw device, another file system, or a disk by several nodes.
func (p Pool) allows(volume string, c *csi.VolumeCapability) error {
	kind, err := p.kind(volume)
	if err != nil {
		return err
	}
	m := c.GetMount()
	switch mode := c.GetAccessMode().GetMode(); {
	case m == nil:
		return errors.Join(errCapability, errors.New("it is no raw device"))
	case kind == Disk && m.GetFsType() != "" && m.GetFsType() != "ext4":
		return errors.Join(errCapability, errors.New("its file system is ext4"))
	case kind == Disk && severalNodes(mode):
		return errors.Join(errCapability, errors.New("it is a disk, which one node has at a time"))
	}
	return nil
}

func severalNodes(mode csi.VolumeCapability_AccessMode_Mode) bool {
	switch mode {
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY, csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		return true
	}
	return false
}

// answer gives an error the status that the CSI specification has for it.
func answer(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, ErrNoVolume):
		code = codes.NotFound
	case errors.Is(err, ErrAttachedElsewhere), errors.Is(err, ErrNotAttached), errors.Is(err, ErrMounted):
		code = codes.FailedPrecondition
	case errors.Is(err, errCapability):
		code = codes.InvalidArgument
	}
	return status.Error(code, err.Error())
}
