package cri

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const testImage = "sha256:e4c151f4cf1cecbbfb7a6a5f507387fb3241971a8137461908a67314021c6c84"

func testDescription() *Description {
	return &Description{
		Handler: Handler,
		Sandbox: &runtimev1.PodSandboxConfig{
			Metadata:     &runtimev1.PodSandboxMetadata{Name: "p", Namespace: "default", Uid: "u", Attempt: 2},
			Hostname:     "host",
			LogDirectory: "/var/log/pods/default_p_u",
			Labels:       map[string]string{"app": "p"},
			Annotations:  map[string]string{"note": "kept"},
			Linux:        &runtimev1.LinuxPodSandboxConfig{CgroupParent: "/kubepods/x"},
		},
		Containers: []ContainerDescription{{
			ID:    "c1",
			Image: testImage,
			Config: &runtimev1.ContainerConfig{
				Metadata: &runtimev1.ContainerMetadata{Name: "main"},
				Image:    &runtimev1.ImageSpec{Image: "redis:7", UserSpecifiedImage: "redis"},
				Envs:     []*runtimev1.KeyValue{{Key: "A", Value: "1"}},
				LogPath:  "main/0.log",
				Linux:    &runtimev1.LinuxContainerConfig{Resources: &runtimev1.LinuxContainerResources{MemoryLimitInBytes: 1 << 30}},
			},
		}},
	}
}

func TestDescriptionComesBackAsItWas(t *testing.T) {
	d := testDescription()
	b, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDescription(b)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got.Sandbox, d.Sandbox) || !proto.Equal(got.Containers[0].Config, d.Containers[0].Config) ||
		got.Handler != d.Handler || got.Containers[0].ID != "c1" || got.Containers[0].Image != testImage {
		t.Errorf("came back as %+v", got)
	}
}

func TestDescriptionRefusesWhatCannotMove(t *testing.T) {
	for name, spoil := range map[string]func(*Description){
		"no sandbox":             func(d *Description) { d.Sandbox = nil },
		"no name":                func(d *Description) { d.Sandbox.Metadata.Name = "" },
		"another handler":        func(d *Description) { d.Handler = "runc" },
		"no container":           func(d *Description) { d.Containers = nil },
		"a nameless container":   func(d *Description) { d.Containers[0].Config.Metadata = nil },
		"no configuration":       func(d *Description) { d.Containers[0].Config = nil },
		"two of one name":        func(d *Description) { d.Containers = append(d.Containers, d.Containers[0]) },
		"too many containers":    func(d *Description) { d.Containers = slices.Repeat(d.Containers, maxContainers+1) },
		"a terminal":             func(d *Description) { d.Containers[0].Config.Tty = true },
		"an image by name":       func(d *Description) { d.Containers[0].Image = "redis:7" },
		"a short digest":         func(d *Description) { d.Containers[0].Image = "sha256:12" },
		"a device":               func(d *Description) { d.Containers[0].Config.Devices = []*runtimev1.Device{{HostPath: "/dev/kvm"}} },
		"logs elsewhere":         func(d *Description) { d.Containers[0].Config.LogPath = "../../x" },
		"logs at the root":       func(d *Description) { d.Containers[0].Config.LogPath = "/x" },
		"a crooked log dir":      func(d *Description) { d.Sandbox.LogDirectory = "/var/log/pods/../../etc" },
		"a relative log dir":     func(d *Description) { d.Sandbox.LogDirectory = "logs" },
		"a crooked mount source": func(d *Description) { d.Containers[0].Config.Mounts = []*runtimev1.Mount{{HostPath: "/a/../b"}} },
		"the node's network": func(d *Description) {
			d.Sandbox.Linux.SecurityContext = &runtimev1.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimev1.NamespaceOption{Network: runtimev1.NamespaceMode_NODE},
			}
		},
	} {
		d := testDescription()
		spoil(d)
		if err := d.Valid(); !errors.Is(err, ErrImmovable) {
			t.Errorf("%s: %v, want ErrImmovable", name, err)
		}
	}
	if err := testDescription().Valid(); err != nil {
		t.Errorf("a plain pod: %v", err)
	}
}

func FuzzDecodeDescription(f *testing.F) {
	b, err := testDescription().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"sandbox":null,"containers":[{"config":null}]}`))
	f.Add([]byte(`{"sandbox":{"metadata":{}},"containers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDescription(b)
		if err != nil {
			return
		}
		// What passed can be made without a panic, and logs below its directory.
		sandboxConfig(d, Node{CgroupParent: "/x"}, map[string]string{"k": "v"})
		for _, c := range d.Containers {
			containerConfig(c, map[string]string{"k": "v"})
			if p := c.Config.GetLogPath(); p != "" && !filepath.IsLocal(p) {
				t.Errorf("log path %q passed", p)
			}
		}
		root := t.TempDir()
		_ = makeLogDirectory(filepath.Join(root, "logs"), d)
		if entries, _ := os.ReadDir(root); len(entries) > 1 {
			t.Errorf("made %v beside the log root", entries)
		}
	})
}

func TestRecreatedPodIsTheNextAttemptWithImagesByDigest(t *testing.T) {
	d := testDescription()
	before := proto.Clone(d.Sandbox)
	s := sandboxConfig(d, Node{CgroupParent: "/mine"}, map[string]string{"godwit.dev/migration": "m-1"})
	if s.Metadata.Attempt != 3 || s.Metadata.Uid != "u" || s.Linux.CgroupParent != "/mine" ||
		s.Annotations["godwit.dev/migration"] != "m-1" || s.Annotations["note"] != "kept" || s.Labels["app"] != "p" {
		t.Errorf("sandbox is made as %v", s)
	}
	if !proto.Equal(before, d.Sandbox) {
		t.Error("the description was changed")
	}
	if s := sandboxConfig(d, Node{}, nil); s.Linux.CgroupParent != "/kubepods/x" {
		t.Errorf("cgroup parent is %q, want the pod's own", s.Linux.CgroupParent)
	}
	c := containerConfig(d.Containers[0], map[string]string{"k": "v"})
	if c.Image.Image != testImage || c.Image.UserSpecifiedImage != "redis" || c.Annotations["k"] != "v" ||
		c.Linux.Resources.MemoryLimitInBytes != 1<<30 || c.Envs[0].Value != "1" {
		t.Errorf("container is made as %v", c)
	}
}

func TestLogDirectoryIsMadeBelowItsRootOnly(t *testing.T) {
	base := t.TempDir()
	root := filepath.Join(base, "pods")
	d := testDescription()
	d.Sandbox.LogDirectory = filepath.Join(root, "default_p_u")
	if err := makeLogDirectory(root, d); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(root, "default_p_u", "main")); err != nil || !fi.IsDir() {
		t.Fatalf("container's log directory: %v", err)
	}
	if err := RemoveLogDirectory(root, d); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("%v left", left)
	}

	d.Sandbox.LogDirectory = filepath.Join(base, "elsewhere")
	if err := makeLogDirectory(root, d); !errors.Is(err, ErrImmovable) {
		t.Errorf("beside the root: %v, want ErrImmovable", err)
	}
	if err := os.Symlink(base, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	d.Sandbox.LogDirectory = filepath.Join(root, "link", "out")
	if err := makeLogDirectory(root, d); err == nil {
		t.Error("followed a link out of the root")
	}
	if _, err := os.Lstat(filepath.Join(base, "out")); err == nil {
		t.Error("made a directory through a link")
	}
}

func TestLogsOfAnEarlierStayRemain(t *testing.T) {
	root := t.TempDir()
	d := testDescription()
	d.Sandbox.LogDirectory = filepath.Join(root, "default_p_u")
	log := filepath.Join(root, "default_p_u", "main", "0.log")
	if err := makeLogDirectory(root, d); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, []byte("earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveLogDirectory(root, d); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log); err != nil {
		t.Errorf("earlier logs are gone: %v", err)
	}
}

func TestMissingMountSourceIsSaid(t *testing.T) {
	d := testDescription()
	dir := t.TempDir()
	d.Containers[0].Config.Mounts = []*runtimev1.Mount{{ContainerPath: "/data", HostPath: dir}}
	if err := checkMounts(d); err != nil {
		t.Errorf("a directory that is there: %v", err)
	}
	d.Containers[0].Config.Mounts[0].HostPath = filepath.Join(dir, "lacking")
	if err := checkMounts(d); !errors.Is(err, ErrImmovable) || !strings.Contains(err.Error(), "lacking") {
		t.Errorf("error %v, want ErrImmovable that names the path", err)
	}
}

func TestPodIsFoundByNameAndID(t *testing.T) {
	pods := []Pod{
		{ID: "aaaa1111", Namespace: "default", Name: "web", Ready: true},
		{ID: "aaaa2222", Namespace: "other", Name: "web", Ready: true},
		{ID: "bbbb1111", Namespace: "default", Name: "db", Ready: true},
		{ID: "bbbb2222", Namespace: "default", Name: "db"},
		{ID: "cccc1111", Namespace: "default", Name: "aaaa", Ready: true},
	}
	for ref, want := range map[string]string{
		"default/web": "aaaa1111", "other/web": "aaaa2222", "db": "bbbb1111", "bbbb2222": "bbbb2222", "cccc": "cccc1111",
		"aaaa": "cccc1111", // a name wins over an id's beginning
	} {
		if p, err := find(pods, ref); err != nil || p.ID != want {
			t.Errorf("%s: %s, %v; want %s", ref, p.ID, err, want)
		}
	}
	for ref, want := range map[string]error{"web": ErrAmbiguous, "nobody": ErrNoPod, "bbb": ErrNoPod, "": ErrNoPod, "default/": ErrNoPod} {
		if p, err := find(pods, ref); !errors.Is(err, want) {
			t.Errorf("%q: %s, %v; want %v", ref, p.ID, err, want)
		}
	}
}

func TestObstaclesAreSaid(t *testing.T) {
	running := PodContainer{Name: "main", State: runtimev1.ContainerState_CONTAINER_RUNNING}
	fine := Pod{Ready: true, Handler: Handler, Containers: []PodContainer{running}}
	if o := fine.Obstacle(); o != "" {
		t.Errorf("a plain pod: %s", o)
	}
	for says, spoil := range map[string]func(*Pod){
		"not ready":   func(p *Pod) { p.Ready = false },
		"handler":     func(p *Pod) { p.Handler = "" },
		"none of its": func(p *Pod) { p.Containers = nil },
		"not started": func(p *Pod) {
			p.Containers = []PodContainer{running, {Name: "next", State: runtimev1.ContainerState_CONTAINER_CREATED}}
		},
	} {
		p := fine
		spoil(&p)
		if o := p.Obstacle(); !strings.Contains(o, says) {
			t.Errorf("obstacle %q, want one that says %q", o, says)
		}
	}
}

func TestSharedMemoryIsTheSandboxesOwn(t *testing.T) {
	for _, c := range []struct {
		mount specs.Mount
		want  string
	}{
		{specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/run/c/shm"}, "/run/c/shm"},
		{specs.Mount{Destination: "/dev/shm/", Type: "bind", Source: "/run/c/shm"}, "/run/c/shm"},
		{specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm"}, ""},
		{specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}, ""},
		{specs.Mount{Destination: "/data", Type: "bind", Source: "/data"}, ""},
	} {
		if got := sharedMemory(&specs.Spec{Mounts: []specs.Mount{c.mount}}); got != c.want {
			t.Errorf("%+v: %q, want %q", c.mount, got, c.want)
		}
	}
	if got := sharedMemory(nil); got != "" {
		t.Errorf("no specification: %q", got)
	}
}

func TestImportedImagesAreNamedByDigestOnly(t *testing.T) {
	target := "sha256:" + strings.Repeat("a", 64)
	for _, c := range []struct {
		image Image
		want  []string
	}{
		{Image{Target: target, Names: []string{"docker.io/library/redis:7"}}, []string{"docker.io/library/redis@" + target}},
		{Image{Target: target, Names: []string{"localhost/a:1", "localhost/a:2"}, RepoDigests: []string{"localhost/b@sha256:" + strings.Repeat("b", 64)}},
			[]string{"localhost/a@" + target, "localhost/b@" + target}},
		{Image{Target: target}, []string{unnamed + "@" + target}},
		{Image{Target: target, Names: []string{"../../etc", "UPPER", "a b"}}, []string{unnamed + "@" + target}},
	} {
		if got := digestNames(c.image); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.image, got, c.want)
		}
	}
}

// The verbose information of containerd 2.1 is what Describe builds on.
func TestContainerdInfoIsRead(t *testing.T) {
	const text = `{"sandboxID":"s","pid":12,"config":{"metadata":{"name":"main"},"image":{"image":"sha256:1"},"envs":[{"key":"A","value":"1"}],
		"mounts":[{"container_path":"/data","host_path":"/srv","propagation":1}],"linux":{"resources":{"memory_limit_in_bytes":5}},"stop_signal":15},
		"runtimeSpec":{"ociVersion":"1.2.1","mounts":[{"destination":"/dev/shm","type":"bind","source":"/run/shm"}]}}`
	var info containerInfo
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		t.Fatal(err)
	}
	c := info.Config
	if c.Metadata.Name != "main" || c.Envs[0].Value != "1" || c.Mounts[0].HostPath != "/srv" ||
		c.Mounts[0].Propagation != runtimev1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER ||
		c.Linux.Resources.MemoryLimitInBytes != 5 || sharedMemory(info.RuntimeSpec) != "/run/shm" {
		t.Errorf("read as %v", c)
	}
}
