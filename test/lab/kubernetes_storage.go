package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/lab/storage"
	"godwit.dev/godwit/test/pace"
)

// VolumeSpec says what volume is wanted.
type VolumeSpec struct {
	// Name is the PersistentVolume's, and the storage's own.
	Name string
	// Namespace and Claim are those of the claim that is made with it and bound to it; an empty namespace is "default", and an
	// empty claim has the volume's name. A StatefulSet takes a claim that is there already by the name that it would give it.
	Namespace, Claim string
	// Shared makes it a directory that any number of nodes have: ReadWriteMany. Without, it is a disk of SizeMiB that is attached
	// to one node at a time: ReadWriteOnce.
	Shared bool
	// OnePod makes a disk ReadWriteOncePod: one pod may have it.
	OnePod bool
	// SizeMiB is the size of a disk; 0 means 64.
	SizeMiB int
}

const defaultSizeMiB = 64

// storageTimeout is how long the driver's last mounts may take to end after the machines have.
const storageTimeout = time.Minute

// storageDir is the storage of a cluster, which all its machines see.
func (l layout) storageDir() string { return filepath.Join(l.data, "storage") }

// AddVolume makes storage, a PersistentVolume for it, and the claim that it is bound to.
func (c *Cluster) AddVolume(ctx context.Context, v VolumeSpec) error {
	size := int64(v.SizeMiB) << 20
	if size == 0 {
		size = defaultSizeMiB << 20
	}
	kind := storage.Disk
	if v.Shared {
		kind = storage.Share
	}
	if err := c.Storage().Create(ctx, v.Name, kind, size); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, v.manifest(size), "apply", "-f", "-"); err != nil {
		return err
	}
	namespace, claim := v.claim()
	_, err := c.Kubectl(ctx, "", "wait", "--for=jsonpath={.status.phase}=Bound", "--namespace="+namespace, "pvc/"+claim,
		"--timeout="+pace.Stretch(2*time.Minute).String())
	return err
}

func (v VolumeSpec) claim() (namespace, name string) {
	namespace, name = v.Namespace, v.Claim
	if namespace == "" {
		namespace = "default"
	}
	if name == "" {
		name = v.Name
	}
	return namespace, name
}

// manifest binds volume and claim to each other by name: nothing is left to be chosen or provisioned.
func (v VolumeSpec) manifest(size int64) string {
	mode, fsType := "ReadWriteOnce", "fsType: ext4, "
	switch {
	case v.Shared:
		mode, fsType = "ReadWriteMany", ""
	case v.OnePod:
		mode = "ReadWriteOncePod"
	}
	namespace, claim := v.claim()
	return fmt.Sprintf(`apiVersion: v1
kind: PersistentVolume
metadata: {name: %[1]s}
spec:
  capacity: {storage: %[2]d}
  accessModes: [%[3]s]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  claimRef: {namespace: %[5]s, name: %[6]s}
  csi: {driver: %[7]s, %[4]svolumeHandle: %[1]s}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {namespace: %[5]s, name: %[6]s}
spec:
  accessModes: [%[3]s]
  storageClassName: ""
  volumeName: %[1]s
  resources: {requests: {storage: %[2]d}}
`, v.Name, size, mode, fsType, namespace, claim, storage.DriverName)
}

// RemoveVolume removes a volume with its claim and content. No pod may use it any more; it waits until it is detached.
func (c *Cluster) RemoveVolume(ctx context.Context, v VolumeSpec) error {
	namespace, claim := v.claim()
	for _, args := range [][]string{
		{"delete", "pvc", claim, "--namespace=" + namespace, "--ignore-not-found", "--wait=false"},
		{"delete", "pv", v.Name, "--ignore-not-found", "--wait=false"},
	} {
		if _, err := c.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	var gone error
	err := until(ctx, func() error {
		err := c.Storage().Remove(ctx, v.Name)
		if errors.Is(err, storage.ErrNoVolume) {
			gone, err = err, nil // waiting does not bring it back
		}
		return err
	})
	return errors.Join(err, gone)
}

// Storage is what the volumes are in. Each node has it at storage.Dir, whether a volume of it is attached there or not.
func (c *Cluster) Storage() storage.Pool { return storage.Open(c.lab.storageDir()) }

// addStorage gives a machine the storage, and the side of the driver that belongs there.
func (l *Lab) addStorage(spec *nodeinit.Spec, s nodeState) {
	spec.Binds = append(spec.Binds, nodeinit.Bind{Host: l.storageDir(), Node: storage.Dir})
	driver := nodeinit.Service{
		// PID 1 is the program that the driver is in, and /proc has it whatever has become of its file.
		Name: "storage", Program: "/proc/1/exe", Args: append([]string{arg0Storage}, l.marker(s.Name)...),
	}
	if s.Role != roleControl {
		driver.Args = append(driver.Args, s.Name)
		spec.Services = append(spec.Services, driver)
		return
	}
	spec.Binds = append(spec.Binds, nodeinit.Bind{Host: l.attacher, Node: attacherDir, ReadOnly: true})
	spec.Services = append(spec.Services, driver, nodeinit.Service{
		Name: "csi-attacher", After: "kube-apiserver", Args: []string{
			filepath.Join(attacherDir, attacher.name), "--csi-address=" + storage.ControllerSocket,
			"--kubeconfig=" + filepath.Join(kubernetesConf, "csi-attacher.kubeconfig"), "--http-endpoint=127.0.0.1:8089",
		},
	})
}

// stored is a driver: its arguments after the markers are none for the controller side, or the node's name.
func stored() error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if len(os.Args) > 3 {
		return storage.ServeNode(ctx, os.Args[3], log)
	}
	return storage.ServeController(ctx, log)
}

// csiDriver tells the cluster that the driver's volumes are attached before they are mounted.
const csiDriver = `apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: ` + storage.DriverName + `}
spec: {attachRequired: true, podInfoOnMount: false, volumeLifecycleModes: [Persistent]}
`

// hasDriver fails until a node's kubelet has the driver.
func (c *apiClient) hasDriver(ctx context.Context, node string) error {
	var n struct {
		Spec struct {
			Drivers []struct {
				Name string `json:"name"`
			} `json:"drivers"`
		} `json:"spec"`
	}
	if err := c.get(ctx, "/apis/storage.k8s.io/v1/csinodes/"+node, &n); err != nil {
		return err
	}
	for _, d := range n.Spec.Drivers {
		if d.Name == storage.DriverName {
			return nil
		}
	}
	return errors.New("kubelet does not have the driver " + storage.DriverName)
}

// releaseStorage waits until nothing of a lab's storage is mounted by machines that have ended.
func (l layout) releaseStorage() error {
	ctx, cancel := context.WithTimeout(context.Background(), pace.Stretch(storageTimeout))
	defer cancel()
	if err := storage.Open(l.storageDir()).Close(ctx); err != nil {
		return fmt.Errorf("storage of the cluster: %w", err)
	}
	return nil
}
