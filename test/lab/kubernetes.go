package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"godwit.dev/godwit/contrib/kubernetes/crd"
	"godwit.dev/godwit/test/lab/nodeinit"
	"godwit.dev/godwit/test/lab/storage"
	"godwit.dev/godwit/test/pace"
)

// Cluster is the Kubernetes on a lab's nodes: each node runs a kubelet and a kube-proxy, and a machine of its own, which is none of
// Nodes, runs etcd, the API server, the controller manager and the scheduler.
type Cluster struct {
	lab     *Lab
	control *Node
}

// RuntimeClasses are in every cluster of a lab, each for the runtime handler of its name; in a bare one only runc's. A pod
// without one has runc.
var RuntimeClasses = []string{"godwit", "runc"}

// clusterTimeout is how long nodes that run may take to be Ready, on a machine that is busy.
const clusterTimeout = 4 * time.Minute

// Kubernetes is the lab's cluster, or nil if the lab was brought up without.
func (l *Lab) Kubernetes() *Cluster {
	if l.kubernetes == "" {
		return nil
	}
	return &Cluster{lab: l, control: l.control}
}

// Kubeconfig is the file by which clients on the host reach the cluster as its administrator.
func (c *Cluster) Kubeconfig() string { return c.lab.kubeconfigFile() }

// Server is the API server's URL, for nodes, pods and the host.
func (c *Cluster) Server() string { return c.lab.apiServerURL() }

// Bin is the directory with Kubernetes's programs, kubectl and etcd among them, for tests that want one of their own.
func (c *Cluster) Bin() string { return c.lab.kubernetes }

// Control is the machine of the control plane, to kill it or its services, to cut its link, or for their logs; nil if it
// does not run. If it is killed, Up starts it again with what etcd had.
func (c *Cluster) Control() *Node { return c.control }

// KubectlCommand is kubectl on the host, as the cluster's administrator.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.lab.kubernetes, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

// Kubectl runs kubectl on the host with stdin, which may be empty, and returns its standard output. The error carries its
// standard error.
func (c *Cluster) Kubectl(ctx context.Context, stdin string, args ...string) ([]byte, error) {
	cmd := c.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.Bytes(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, tail(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

func (l layout) kubeconfigFile() string { return filepath.Join(l.kubernetesDir(), "admin.kubeconfig") }

// planKubernetes says with which programs the lab runs Kubernetes, or with none. A lab with Kubernetes stays one, and keeps
// its programs as long as a node runs them.
func planKubernetes(wanted string, before config, kept int) (string, error) {
	switch {
	case kept == 0 && wanted != "":
		return wanted, nil
	case before.Kubernetes != "" || wanted == "":
		return before.Kubernetes, nil
	}
	return "", errors.New("the nodes that run have no kubelet; take the lab down first")
}

// prepareCluster makes what the machines of a cluster have in common. The lab's addresses are settled.
func (l *Lab) prepareCluster() error {
	var err error
	if l.authority, err = l.clusterAuthority(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.etcdDir(), 0o700); err != nil {
		return fmt.Errorf("disk of etcd: %w", err)
	}
	if err := os.MkdirAll(l.storageDir(), 0o755); err != nil {
		return fmt.Errorf("storage: %w", err)
	}
	if _, err := os.Stat(l.kubeconfigFile()); err == nil {
		return nil
	}
	content, err := l.authority.kubeconfig(l.apiServerURL(), administrator)
	if err != nil {
		return err
	}
	tmp := l.kubeconfigFile() + ".tmp"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	if err := os.Rename(tmp, l.kubeconfigFile()); err != nil {
		return fmt.Errorf("kubeconfig: %w", err)
	}
	return nil
}

// ensureControl keeps the machine of the control plane, or builds it. Nodes come up at the same time: kubelets ask until
// they are answered.
func (l *Lab) ensureControl(ctx context.Context, all []nodeState, root string) (nodeState, error) {
	s, err := l.readState(controlName)
	if err == nil && s.alive() {
		return s, l.keep(ctx, &s, all)
	}
	if err := l.destroy(controlName); err != nil {
		return s, err
	}
	return l.build(ctx, nodeState{Name: controlName, Index: controlIndex, Role: roleControl}, all, root, nil)
}

// addPrograms gives a machine Kubernetes's programs.
func (l *Lab) addPrograms(spec *nodeinit.Spec) {
	spec.Binds = append(spec.Binds, nodeinit.Bind{Host: l.kubernetes, Node: kubernetesBinDir, ReadOnly: true})
	for _, program := range kubernetesPrograms {
		spec.Links["/usr/local/bin/"+program] = filepath.Join(kubernetesBinDir, program)
	}
}

// addControlPlane makes a machine that of the control plane.
func (l *Lab) addControlPlane(spec *nodeinit.Spec, s nodeState) error {
	l.addPrograms(spec)
	files, err := l.controlFiles()
	spec.Files = append(spec.Files, files...)
	spec.Binds = append(spec.Binds, nodeinit.Bind{Host: l.etcdDir(), Node: "/var/lib/etcd"})
	spec.Services = l.controlServices()
	l.addStorage(spec, s)
	return err
}

// addKubelet makes a node one of the cluster.
func (l *Lab) addKubelet(spec *nodeinit.Spec, s nodeState) error {
	l.addPrograms(spec)
	disk := l.dataDir(s.Name)
	// Not on the overlay: kubelet asks which disk it is, and keeps the pods' volumes there.
	spec.Binds = append(spec.Binds, nodeinit.Bind{Host: filepath.Join(disk, "kubelet"), Node: "/var/lib/kubelet"})
	for name := range kernelSettings {
		spec.Binds = append(spec.Binds, nodeinit.Bind{Host: filepath.Join(disk, "sysctl", name), Node: "/proc/sys/" + name, ReadOnly: true})
	}
	files, err := l.workerFiles(s)
	spec.Files = append(spec.Files, files...)
	spec.Services = append(spec.Services, l.workerServices(s)...)
	l.addStorage(spec, s)
	return err
}

// writeKernelSettings writes to a node's disk what it shows its kubelet.
func (l layout) writeKernelSettings(node string) error {
	for name, value := range kernelSettings {
		file := filepath.Join(l.dataDir(node), "sysctl", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("kernel settings: %w", err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o444); err != nil {
			return fmt.Errorf("kernel settings: %w", err)
		}
	}
	return nil
}

// awaitCluster waits until the cluster takes pods: the API server answers, all nodes are Ready, and there are the service
// account and the runtime classes that pods name.
func (l *Lab) awaitCluster(ctx context.Context, nodes []nodeState) error {
	api, err := newAPIClient(l.authority, l.apiServerURL())
	if err != nil {
		return err
	}
	defer api.close()
	ctx, cancel := context.WithTimeout(ctx, pace.Stretch(clusterTimeout))
	defer cancel()
	l.log.Info("waiting for Kubernetes", "server", api.server)
	if err := until(ctx, func() error { return api.get(ctx, "/readyz", nil) }); err != nil {
		return fmt.Errorf("Kubernetes is not ready: %w%s", err, l.logTails(controlName))
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, class := range RuntimeClasses {
		if l.bare && class != "runc" {
			continue
		}
		g.Go(func() error { return until(gctx, func() error { return api.ensureRuntimeClass(gctx, class) }) })
	}
	g.Go(func() error {
		return until(gctx, func() error { return api.get(gctx, "/api/v1/namespaces/default/serviceaccounts/default", nil) })
	})
	g.Go(func() error {
		if l.bare {
			return nil
		}
		return until(gctx, func() error {
			return api.apply(gctx, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"+crd.PodMigrationsName, crd.PodMigrations)
		})
	})
	g.Go(func() error {
		return until(gctx, func() error {
			return api.apply(gctx, "/apis/storage.k8s.io/v1/csidrivers/"+storage.DriverName, []byte(csiDriver))
		})
	})
	for _, s := range nodes {
		g.Go(func() error {
			if err := until(gctx, func() error { return api.nodeReady(gctx, s) }); err != nil {
				return fmt.Errorf("node %s is not Ready: %w%s", s.Name, err, l.logTails(s.Name))
			}
			if err := until(gctx, func() error { return api.hasDriver(gctx, s.Name) }); err != nil {
				return fmt.Errorf("storage of node %s: %w%s", s.Name, err, l.logTails(s.Name))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("Kubernetes: %w", err)
	}
	return nil
}

// until calls f until it gives no error, and returns its last one when ctx ends.
func until(ctx context.Context, f func() error) error {
	var last error
	err := poll(ctx, func() (bool, error) {
		if err := f(); ctx.Err() == nil || last == nil {
			last = err
		}
		return last == nil, nil
	})
	return errors.Join(err, last)
}

// ensureRuntimeClass makes one, if there is none of that name.
func (c *apiClient) ensureRuntimeClass(ctx context.Context, name string) error {
	err := c.create(ctx, "/apis/node.k8s.io/v1/runtimeclasses", map[string]any{
		"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "handler": name, "metadata": map[string]string{"name": name},
	})
	var status statusError
	if errors.As(err, &status) && status.code == http.StatusConflict {
		return nil
	}
	return err
}

// nodeReady fails if the node is not Ready, or has not said so since it was built: the cluster takes a while to see that a node
// has died.
func (c *apiClient) nodeReady(ctx context.Context, s nodeState) error {
	var node struct {
		Status struct {
			Conditions []struct {
				Type              string    `json:"type"`
				Status            string    `json:"status"`
				Message           string    `json:"message"`
				LastHeartbeatTime time.Time `json:"lastHeartbeatTime"`
			} `json:"conditions"`
		} `json:"status"`
	}
	if err := c.get(ctx, "/api/v1/nodes/"+s.Name, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		switch {
		case condition.Type != "Ready":
		case condition.LastHeartbeatTime.Before(s.Created):
			return errors.New("kubelet has not spoken yet")
		case condition.Status != "True":
			return errors.New(condition.Message)
		default:
			return nil
		}
	}
	return errors.New("kubelet has not said")
}
