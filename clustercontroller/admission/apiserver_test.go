package admission_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"godwit.dev/godwit/clustercontroller"
	"godwit.dev/godwit/clustercontroller/admission"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
)

const (
	godwitNamespace = "godwit-system"
	manifests       = "../../contrib/kubernetes/godwit.yaml"
	definition      = "../../contrib/helm/godwit/files/godwit.dev_podmigrations.yaml"
	controllerUser  = "system:serviceaccount:" + godwitNamespace + ":godwit-controller"
)

// cluster is a real API server with what the manifests install, and the
// controller running with the rights that they give it. There are no nodes but their objects.
type cluster struct {
	client.Client
	clientset *kubernetes.Clientset
	warnings  *warnings
	stop      func() // ends the controller
}

// warnings are what the API server warned of since they were last taken.
type warnings struct {
	mu  sync.Mutex
	all []string // guarded by mu
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("GODWIT_KUBERNETES") != "1" {
		t.Skip("needs an API server, with GODWIT_KUBERNETES=1 only; see make e2e-kubernetes")
	}
	bin, err := lab.KubernetesBin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scheme, err := clustercontroller.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	env := &envtest.Environment{
		Scheme: scheme, BinaryAssetsDirectory: bin, CRDDirectoryPaths: []string{definition}, ErrorIfCRDPathMissing: true,
		ControlPlaneStartTimeout: pace.Stretch(3 * time.Minute), ControlPlaneStopTimeout: pace.Stretch(2 * time.Minute),
	}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{warnings: &warnings{}}
	config.QPS, config.WarningHandler = -1, c.warnings
	if c.Client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	if c.clientset, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	c.install(t, scheme, int32(port))
	c.run(t, config, port)
	return c
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// install makes the manifests' objects, but those that run something. The
// Service is one by which the API server finds this process.
func (c *cluster) install(t *testing.T, scheme *runtime.Scheme, port int32) {
	t.Helper()
	f, err := os.Open(manifests)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patience := int32(30) // the most that an API server has; what a busy machine takes is not tried
	decoder := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	for documents := yaml.NewYAMLReader(bufio.NewReader(f)); ; {
		text, err := documents.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if runtime.IsNotRegisteredError(err) {
			continue // the definition of PodMigration: there already
		}
		if err != nil {
			t.Fatal(err)
		}
		switch o := object.(type) {
		case *corev1.Namespace, *nodev1.RuntimeClass, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *rbacv1.Role, *rbacv1.RoleBinding:
		case *admissionv1.MutatingWebhookConfiguration:
			o.Webhooks[0].ClientConfig.Service.Port, o.Webhooks[0].TimeoutSeconds = &port, &patience
		case *admissionv1.ValidatingWebhookConfiguration:
			o.Webhooks[0].ClientConfig.Service.Port, o.Webhooks[0].TimeoutSeconds = &port, &patience
		default:
			continue
		}
		if err := c.Create(t.Context(), object.(client.Object)); err != nil {
			t.Fatal(err)
		}
	}
	c.create(t, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: godwitNamespace, Name: "godwit-controller"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	})
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	for _, name := range []string{"a", "b", "n1", "n2", "n3", "n4", "n5"} { // of those that are gone migrations would be ended
		c.create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

// run starts the controller, and returns when the API server asks it.
func (c *cluster) run(t *testing.T, config *rest.Config, port int) {
	t.Helper()
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: controllerUser, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	go func() {
		done <- clustercontroller.Run(ctx, as, clustercontroller.Options{
			Namespace: godwitNamespace, Service: "godwit-controller", WebhookPort: port, HealthAddress: "0", MetricsAddress: "0",
			Signer: v1alpha1.SignerPeer, Validity: 24 * time.Hour,
			Admission: admission.Options{PerNode: 2, Attempts: 2, Pause: time.Millisecond, Keep: time.Hour},
		}, log)
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("controller:", err)
		}
	})
	t.Cleanup(c.stop)
	probe := c.pod(t, "probe", "nowhere")
	eventually(t, "the API server asks the webhooks", func(ctx context.Context) error {
		if err := c.Create(ctx, owned("probe-", "ReplicaSet", "none"), client.DryRunAll); err != nil {
			return err
		}
		c.warnings.take()
		if err := c.evict(ctx, probe, metav1.DryRunAll); err != nil {
			return err
		}
		if len(c.warnings.take()) == 0 {
			return errors.New("an eviction passes")
		}
		return nil
	})
	c.remove(t, probe)
}

// eventually waits for what another process does.
func eventually(t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	last := errors.New("never tried")
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, pace.Stretch(2*time.Minute), true, func(ctx context.Context) (bool, error) {
		last = f(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v: %v", what, err, last)
	}
}

func (c *cluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) remove(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.Delete(t.Context(), o, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
}

// pod makes a bare pod that runs on a node, and is to be moved when evicted.
func (c *cluster) pod(t *testing.T, name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	class := v1alpha1.RuntimeClass
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{v1alpha1.LabelMigrateOnDrain: "true"}},
		Spec:       corev1.PodSpec{RuntimeClassName: &class, NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, f := range change {
		f(pod)
	}
	c.create(t, pod)
	pod.Status.Phase = corev1.PodRunning
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// owned is a pod as a controller of pods makes it.
func owned(prefix, kind string, owner types.UID) *corev1.Pod {
	class, yes := v1alpha1.RuntimeClass, true
	group := "apps/v1"
	if kind == "Job" {
		group = "batch/v1"
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", GenerateName: prefix,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: group, Kind: kind, Name: "web", UID: owner, Controller: &yes}},
		},
		Spec: corev1.PodSpec{
			RuntimeClassName: &class,
			InitContainers:   []corev1.Container{{Name: "setup", Image: "i"}},
			Containers: []corev1.Container{{Name: "c", Image: "i", Lifecycle: &corev1.Lifecycle{
				PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}},
			}}},
		},
	}
}

// evict asks the eviction API once.
func (c *cluster) evict(ctx context.Context, pod *corev1.Pod, dryRun ...string) error {
	return c.clientset.CoreV1().RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		MaxRetries(0).
		Body(&policyv1.Eviction{
			TypeMeta:      metav1.TypeMeta{APIVersion: "policy/v1", Kind: "Eviction"},
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{DryRun: dryRun},
		}).Do(ctx).Error()
}

// drains are the PodMigrations that evictions of the node's pods have asked for.
func (c *cluster) drains(ctx context.Context, node string) ([]v1alpha1.PodMigration, error) {
	var list v1alpha1.PodMigrationList
	if err := c.List(ctx, &list, client.HasLabels{v1alpha1.LabelDrain}); err != nil {
		return nil, err
	}
	var all []v1alpha1.PodMigration
	for _, m := range list.Items {
		if m.Annotations[v1alpha1.AnnotationDrainNode] == node {
			all = append(all, m)
		}
	}
	return all, nil
}

func (c *cluster) wantDrains(t *testing.T, node string, want int) []v1alpha1.PodMigration {
	t.Helper()
	all, err := c.drains(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != want {
		t.Fatalf("node %s has %d drains, want %d: %+v", node, len(all), want, all)
	}
	return all
}

// end has a migration be over.
func (c *cluster) end(t *testing.T, m *v1alpha1.PodMigration, phase v1alpha1.Phase, at time.Time) {
	t.Helper()
	m.Status.Phase, m.Status.Message, m.Status.CompletionTime = phase, "no node has room", &metav1.Time{Time: at}
	if err := c.Status().Update(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// gone says that an evicted pod is no more, or about to be.
func (c *cluster) gone(ctx context.Context, pod *corev1.Pod) error {
	var now corev1.Pod
	err := c.Get(ctx, client.ObjectKeyFromObject(pod), &now)
	if err == nil && now.DeletionTimestamp == nil {
		return fmt.Errorf("pod %s is there", pod.Name)
	}
	return client.IgnoreNotFound(err)
}
