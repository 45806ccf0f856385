package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/pace"
)

// readyTimeout is how long a node may take from nothing to a containerd that answers, on a machine that is busy.
const readyTimeout = 4 * time.Minute

// binDir is where a node sees the project's binaries, as the build leaves them at any moment.
const binDir = "/opt/godwit/bin"

// binaries are linked into the search path of each node, whether they exist already or not.
var binaries = []string{"containerd-shim-godwit-v2", "godwit-node", "godwitctl", "kubectl-godwit"}

// build makes a node and returns its state once its containerd answers and has the lab's images. A node that cannot be
// brought so far is removed again.
func (l *Lab) build(ctx context.Context, s nodeState, all []nodeState, root string, images []imageRecord) (nodeState, error) {
	l.log.Info("starting node", "node", s.Name, "address", l.nodeAddr(s.Index))
	s, err := l.boot(ctx, s, all, root)
	if err == nil {
		err = l.furnish(ctx, s, images)
	}
	if err != nil {
		logs := l.logTails(s.Name)
		if derr := l.destroy(s.Name); derr != nil {
			err = fmt.Errorf("%w (and removing it: %w)", err, derr)
		}
		return s, fmt.Errorf("node %s: %w%s", s.Name, err, logs)
	}
	// The last step: a node whose state is written is complete.
	return s, l.writeState(s)
}

// boot starts PID 1, gives it its links, and waits for its services.
func (l *Lab) boot(ctx context.Context, s nodeState, all []nodeState, root string) (nodeState, error) {
	disk := l.dataDir(s.Name)
	for _, dir := range []string{"upper", "work", "root", "containerd", "log", "pki"} {
		if err := os.MkdirAll(filepath.Join(disk, dir), 0o755); err != nil {
			return s, fmt.Errorf("disk: %w", err)
		}
	}
	if err := os.Chmod(filepath.Join(disk, "pki"), 0o700); err != nil {
		return s, fmt.Errorf("disk: %w", err)
	}
	spec, err := l.spec(s, all, root)
	if err != nil {
		return s, err
	}
	if err := l.furnishDisk(ctx, s); err != nil {
		return s, err
	}
	if err := removeLink(l.hostLink(s.Index)); err != nil { // of a node that died, if its namespace still ends
		return s, err
	}
	d, err := launch(arg0Node, l.marker(s.Name), l.nodeCgroup(s.Name), filepath.Join(l.logDir(s.Name), "init.log"))
	if err != nil {
		return s, err
	}
	defer d.close()
	s.PID, s.Created = d.pid, time.Now().UTC().Truncate(time.Second)
	if _, s.StartTicks, err = stat(s.PID); err != nil {
		return s, fmt.Errorf("PID 1: %w", err)
	}
	s.MountNS = namespace(s.PID, "mnt")
	if err := l.attach(&s, l.shapeOf(s), haveNetem()); err != nil {
		return s, err
	}
	if err := json.NewEncoder(d.spec).Encode(spec); err != nil {
		return s, fmt.Errorf("PID 1 does not take its specification: %w", err)
	}
	d.spec.Close()
	stop := context.AfterFunc(ctx, func() { d.ready.SetReadDeadline(time.Now()) })
	defer stop()
	if err := d.waitReady(pace.Stretch(readyTimeout)); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return s, fmt.Errorf("start: %w", err)
	}
	return s, nil
}

// furnishDisk puts on a node's disk what it must find there.
func (l *Lab) furnishDisk(ctx context.Context, s nodeState) error {
	if s.Role == roleControl {
		return nil
	}
	if l.kubernetes != "" {
		if err := os.MkdirAll(filepath.Join(l.dataDir(s.Name), "kubelet"), 0o755); err != nil {
			return fmt.Errorf("disk: %w", err)
		}
		if err := l.writeKernelSettings(s.Name); err != nil {
			return err
		}
	}
	return l.issueCertificate(ctx, s)
}

// shapeOf is what a machine's link is like: only nodes have the lab's.
func (l *Lab) shapeOf(s nodeState) Shape {
	if s.Role == roleControl {
		return Shape{}
	}
	return l.shape
}

// furnish does what needs the running node: the shape of its link, its images, and waiting until pods can be made.
func (l *Lab) furnish(ctx context.Context, s nodeState, images []imageRecord) error {
	n := newNode(l, s)
	defer n.closeCRI()
	if s.Role == roleControl {
		return nil
	}
	if err := n.applyShape(ctx, l.shape, haveNetem()); err != nil {
		return err
	}
	for _, img := range images {
		if !img.wantedBy(s.Name) {
			continue
		}
		if err := n.importImage(ctx, img); err != nil {
			return err
		}
	}
	return n.awaitCRI(ctx)
}

// keep brings a running node to what is wanted now without disturbing its pods.
func (l *Lab) keep(ctx context.Context, s *nodeState, all []nodeState) error {
	n := newNode(l, *s)
	defer n.closeCRI()
	netem := haveNetem()
	if !l.attached(*s, l.shapeOf(*s), netem) {
		if err := l.detach(s.Name, s.Index); err != nil {
			return fmt.Errorf("node %s: %w", s.Name, err)
		}
		if err := l.attach(s, l.shapeOf(*s), netem); err != nil {
			return fmt.Errorf("node %s: %w", s.Name, err)
		}
	}
	if s.Role == roleControl {
		return l.writeState(*s)
	}
	if err := n.applyShape(ctx, l.shape, netem); err != nil {
		return err
	}
	s.Uplink.Rate, s.Uplink.Delay = l.shape.Rate, l.shape.Delay
	if err := l.writeState(*s); err != nil {
		return err
	}
	if err := l.issueCertificate(ctx, *s); err != nil {
		return err
	}
	changed, err := n.refreshFiles(l.changingFiles(*s, all))
	if err != nil {
		return err
	}
	if changed || n.staleDaemon() {
		l.log.Info("restarting godwit-node", "node", s.Name)
		n.KillDaemon()
	}
	return nil
}

// spec is what PID 1 of a machine is told.
func (l *Lab) spec(s nodeState, all []nodeState, root string) (nodeinit.Spec, error) {
	disk := l.dataDir(s.Name)
	spec := nodeinit.Spec{
		Hostname:    s.Name,
		Lower:       root,
		Upper:       filepath.Join(disk, "upper"),
		Work:        filepath.Join(disk, "work"),
		Root:        filepath.Join(disk, "root"),
		Binds:       []nodeinit.Bind{{Host: filepath.Join(disk, "log"), Node: nodeinit.LogDir}},
		Cgroups:     nodeCgroupMounts(hierarchies()),
		CgroupLinks: cgroupLinks(),
		RunSize:     "75%",
		Files: []nodeinit.File{
			{Path: "/etc/hostname", Content: s.Name + "\n", Mode: 0o644},
			{Path: "/run/godwit-lab/resolv.conf", Content: "# no name server in a lab\n", Mode: 0o644},
		},
		Links: map[string]string{"/etc/resolv.conf": "/run/godwit-lab/resolv.conf"},
	}
	if s.Role == roleControl {
		return spec, l.addControlPlane(&spec, s)
	}
	l.addRuntime(&spec, s, all)
	if l.kubernetes == "" {
		return spec, nil
	}
	return spec, l.addKubelet(&spec, s)
}

// addRuntime makes a machine a node: containerd, a pod network and, unless it is to be bare, the project's own binaries.
func (l *Lab) addRuntime(spec *nodeinit.Spec, s nodeState, all []nodeState) {
	disk := l.dataDir(s.Name)
	spec.Binds = append(spec.Binds,
		// Not on the overlay: containerd mounts overlays of its own there.
		nodeinit.Bind{Host: filepath.Join(disk, "containerd"), Node: "/var/lib/containerd"},
	)
	containerd := containerdConfig
	if !l.bare {
		containerd += godwitConfig
	}
	spec.Files = append(spec.Files, l.changingFiles(s, all)...)
	spec.Files = append(spec.Files,
		nodeinit.File{Path: "/etc/containerd/config.toml", Content: containerd, Mode: 0o644},
		nodeinit.File{Path: "/etc/cni/net.d/10-lab.conflist", Content: cniConfig(l.podSubnet(s.Index)), Mode: 0o644},
	)
	spec.Services = []nodeinit.Service{
		{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config", "/etc/containerd/config.toml"}, Notify: true},
	}
	if l.bare {
		return
	}
	spec.Binds = append(spec.Binds,
		nodeinit.Bind{Host: filepath.Join(disk, "pki"), Node: pkiDirInNode},
		nodeinit.Bind{Host: l.bin, Node: binDir, ReadOnly: true},
	)
	for _, b := range binaries {
		spec.Links["/usr/local/bin/"+b] = filepath.Join(binDir, b)
	}
	spec.Services = append(spec.Services,
		nodeinit.Service{Name: "godwit-node", Args: []string{"/usr/local/bin/godwit-node", "--config", nodeConfigFile}, Optional: true})
}

// logTails gives the ends of a node's logs, for the error of a node that did not start.
func (l layout) logTails(node string) string {
	var b strings.Builder
	for _, name := range []string{"init", "containerd", "godwit-node", "kubelet", "storage", "etcd", "kube-apiserver", "kube-controller-manager"} {
		content, err := os.ReadFile(filepath.Join(l.logDir(node), name+".log"))
		if err != nil || len(content) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(content)), "\n")
		fmt.Fprintf(&b, "\n--- %s.log\n%s", name, strings.Join(lines[max(0, len(lines)-8):], "\n"))
	}
	return b.String()
}
