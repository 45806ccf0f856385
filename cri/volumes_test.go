package cri

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestVolumesAreThePodsEmptyDirs(t *testing.T) {
	pod := filepath.Join(t.TempDir(), "pods", "0a1b")
	for _, dir := range []string{"volumes/kubernetes.io~empty-dir/parts", "volumes/kubernetes.io~projected/token"} {
		if err := os.MkdirAll(filepath.Join(pod, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	container := func(mounts ...*runtimev1.Mount) ContainerDescription {
		return ContainerDescription{Config: &runtimev1.ContainerConfig{Mounts: mounts}}
	}
	mount := func(host, path string) *runtimev1.Mount {
		return &runtimev1.Mount{HostPath: filepath.Join(pod, host), ContainerPath: path}
	}
	d := &Description{Containers: []ContainerDescription{
		container(
			mount("volumes/kubernetes.io~empty-dir/work", "/work/"),
			mount("volumes/kubernetes.io~projected/token", "/var/run/secrets/kubernetes.io/serviceaccount"),
			mount("etc-hosts", "/etc/hosts"),
			&runtimev1.Mount{ContainerPath: "/image"},
		),
		container(
			mount("volume-subpaths/parts/second/0", "/part"),
			mount("volume-subpaths/token/second/1", "/token"),
			mount("volumes/kubernetes.io~empty-dir/work", "/elsewhere"),
			mount("volumes/kubernetes.io~empty-dir/", "/none"),
		),
	}}
	want := []Volume{
		{Name: "parts", Dir: filepath.Join(pod, "volumes/kubernetes.io~empty-dir/parts"), Mounts: []VolumeMount{{1, "/part"}}},
		{Name: "work", Dir: filepath.Join(pod, "volumes/kubernetes.io~empty-dir/work"), Mounts: []VolumeMount{{0, "/work"}, {1, "/elsewhere"}}},
	}
	if got := d.Volumes(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestStorageIsWhatOutlivesThePod(t *testing.T) {
	pod := filepath.Join(t.TempDir(), "pods", "0a1b")
	for _, dir := range []string{"volumes/kubernetes.io~projected/token", "volumes/kubernetes.io~csi/pv"} {
		if err := os.MkdirAll(filepath.Join(pod, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	config := new(runtimev1.ContainerConfig)
	for path, host := range map[string]string{
		"/work": pod + "/volumes/kubernetes.io~empty-dir/work", "/config": pod + "/volumes/kubernetes.io~configmap/config",
		"/etc/hosts": pod + "/etc-hosts", "/dev/log": pod + "/containers/web/1a2b", "/token": pod + "/volume-subpaths/token/web/1", "/image": "",
		"/disk/": pod + "/volumes/kubernetes.io~csi/pv/mount", "/part": pod + "/volume-subpaths/pv/web/0", "/nfs": pod + "/volumes/kubernetes.io~nfs/files", "/host": "/srv/pods/x",
	} {
		config.Mounts = append(config.Mounts, &runtimev1.Mount{HostPath: host, ContainerPath: path})
	}
	got := storageOf(config)
	slices.Sort(got)
	if want := []string{"/disk", "/host", "/nfs", "/part"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
