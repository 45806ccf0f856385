// Package storage is the network storage of a lab's Kubernetes: volumes in a directory that every machine of the lab sees, and
// a CSI driver for them, with both of its sides.
//
// There are two kinds. A disk is an image with an ext4 file system: it is attached to one node at a time, and mounted there by a
// loop device; mounted on two it would be corrupt. Share is a directory that any number of nodes mount, as they would one of a
// file server: all see each write at once.
//
// The package keeps the storage, and refuses what real storage refuses or suffers from: who has what attached is recorded with
// it, and a disk that some mount still holds cannot be taken away nor mounted elsewhere. What decides when a volume is attached
// and mounted is Kubernetes: its attach-detach controller by way of external-attacher, and kubelet. Where the driver runs, and
// the objects that tell the cluster of a volume, are package lab's.
package storage

// DriverName is the driver's, as a CSIDriver and PersistentVolumes name it.
const DriverName = "storage.lab.godwit.dev"

// Paths in the machines of a cluster.
const (
	// Dir is where each has the storage.
	Dir = "/var/lib/godwit-lab/storage"
	// ControllerSocket is where the controller side answers external-attacher.
	ControllerSocket = "/run/godwit-lab/csi-controller.sock"

	kubeletDir         = "/var/lib/kubelet"
	nodeSocket         = kubeletDir + "/plugins/" + DriverName + "/csi.sock"
	registrationSocket = kubeletDir + "/plugins_registry/" + DriverName + "-reg.sock"
)
