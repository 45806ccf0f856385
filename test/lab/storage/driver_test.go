package storage

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func mountOf(fsType string, mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func TestWhatAVolumeIsNotIsRefused(t *testing.T) {
	const one, many = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	raw := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: one},
	}
	c := controller{pool: newPool(t)}
	for name, tt := range map[string]struct {
		volume     string
		capability *csi.VolumeCapability
		node       string
		want       codes.Code
	}{
		"a disk for one node":                  {"disk", mountOf("ext4", one), "a", codes.OK},
		"a disk that another node has":         {"disk", mountOf("ext4", one), "b", codes.FailedPrecondition},
		"a disk for several nodes":             {"disk", mountOf("ext4", many), "a", codes.InvalidArgument},
		"a disk with another file system":      {"disk", mountOf("xfs", one), "a", codes.InvalidArgument},
		"a disk as a raw device":               {"disk", raw, "a", codes.InvalidArgument},
		"a share for several nodes":            {"share", mountOf("", many), "a", codes.OK},
		"a volume that there is not":           {"none", mountOf("", one), "a", codes.NotFound},
		"a volume that is a directory outside": {"..", mountOf("", one), "a", codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.volume == "disk" { // whatever the order of the table
				if err := c.pool.Attach(t.Context(), "disk", "a"); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.ControllerPublishVolume(t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: tt.volume, NodeId: tt.node, VolumeCapability: tt.capability})
			if status.Code(err) != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if _, err := c.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: "none", NodeId: "a"}); err != nil {
		t.Errorf("a volume that is gone is attached nowhere: %v", err)
	}
}
