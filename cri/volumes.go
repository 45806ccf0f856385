package cri

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Where kubelet keeps the volumes of a pod, below the pod's own directory
// (pkg/volume/emptydir/empty_dir.go, pkg/volume/util/subpath/subpath_linux.go).
const (
	volumeDirs = "/volumes/kubernetes.io~"
	emptyDirs  = volumeDirs + "empty-dir/"
	subPaths   = "/volume-subpaths/"
)

// ownVolumes are the kinds of volumes that are a pod's alone: one that is made anew has
// them anew.
var ownVolumes = []string{"empty-dir", "configmap", "secret", "projected", "downward-api"}

// ownFiles are what kubelet makes for each pod and container besides
// (pkg/kubelet/kubelet_getters.go).
var ownFiles = regexp.MustCompile(`/pods/[^/]+/(etc-hosts$|containers/)`)

// Volume is a directory that belongs to a pod, on disk or in memory, and is empty
// at first: an emptyDir.
type Volume struct {
	Name   string
	Dir    string // on this node
	Mounts []VolumeMount
}

// VolumeMount is where a container sees a volume, or a part of it.
type VolumeMount struct {
	Container int // its number in the description
	Path      string
}

// Volumes are the emptyDirs that containers of the description have mounted, by
// name, as the node has them where it was described.
func (d *Description) Volumes() []Volume {
	configs := make([]*runtimev1.ContainerConfig, len(d.Containers))
	for i, c := range d.Containers {
		configs[i] = c.Config
	}
	return volumesOf(configs)
}

// Volumes are the emptyDirs of containers of this node, by name; the numbers of
// their mounts are places in the list of containers.
func (c *Client) Volumes(ctx context.Context, containers []string) ([]Volume, error) {
	configs := make([]*runtimev1.ContainerConfig, len(containers))
	for i, id := range containers {
		info, _, err := c.containerInfo(ctx, id)
		if err != nil {
			return nil, err
		}
		configs[i] = info.Config
	}
	return volumesOf(configs), nil
}

func volumesOf(configs []*runtimev1.ContainerConfig) []Volume {
	byName := make(map[string]*Volume)
	for i, config := range configs {
		for _, m := range config.GetMounts() {
			name, dir, ok := emptyDirAt(m.GetHostPath())
			if !ok {
				continue
			}
			if byName[name] == nil {
				byName[name] = &Volume{Name: name, Dir: dir}
			}
			byName[name].Mounts = append(byName[name].Mounts, VolumeMount{Container: i, Path: filepath.Clean(m.GetContainerPath())})
		}
	}
	volumes := make([]Volume, 0, len(byName))
	for _, v := range byName {
		volumes = append(volumes, *v)
	}
	slices.SortFunc(volumes, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return volumes
}

// emptyDirAt is the name and the directory of the emptyDir whose part a path is. Of
// a sub-path, which kubelet has mounted at a place of its own, only the volume's
// name can be seen; that it is an emptyDir is found out here.
func emptyDirAt(path string) (name, dir string, ok bool) {
	if pod, rest, found := strings.Cut(path, emptyDirs); found {
		name, _, _ = strings.Cut(rest, "/")
		return name, pod + emptyDirs + name, name != ""
	}
	pod, rest, found := strings.Cut(path, subPaths)
	if !found {
		return "", "", false
	}
	name, _, _ = strings.Cut(rest, "/")
	dir = pod + emptyDirs + name
	info, err := os.Lstat(dir)
	return name, dir, name != "" && err == nil && info.IsDir()
}

// Storage are the places in a container of this node at which it has what is not its
// pod's own: volumes that outlive the pod, or parts of them, and directories of the
// node.
func (c *Client) Storage(ctx context.Context, container string) ([]string, error) {
	info, _, err := c.containerInfo(ctx, container)
	if err != nil {
		return nil, err
	}
	return storageOf(info.Config), nil
}

func storageOf(config *runtimev1.ContainerConfig) []string {
	var paths []string
	for _, m := range config.GetMounts() {
		if m.GetHostPath() != "" && !isOwn(m.GetHostPath()) { // an image has none
			paths = append(paths, filepath.Clean(m.GetContainerPath()))
		}
	}
	return paths
}

func isOwn(path string) bool {
	if _, rest, found := strings.Cut(path, volumeDirs); found {
		kind, _, _ := strings.Cut(rest, "/")
		return slices.Contains(ownVolumes, kind)
	}
	pod, rest, found := strings.Cut(path, subPaths)
	if !found {
		return ownFiles.MatchString(path)
	}
	name, _, _ := strings.Cut(rest, "/")
	return slices.ContainsFunc(ownVolumes, func(kind string) bool {
		_, err := os.Lstat(filepath.Join(pod+volumeDirs+kind, name))
		return err == nil
	})
}
