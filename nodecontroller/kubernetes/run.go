package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/nodefacts"
)

// Options are what Run needs.
type Options struct {
	// Node is this node's name in the cluster.
	Node string
	// Access is how the API server is reached.
	Access *rest.Config
	// Facts are what this node is, for its Node object.
	Facts func(context.Context) nodefacts.Facts
	// Moves is how many pods leave this node at a time; 0 is without limit.
	Moves int
	// Engine is the node's daemon.
	Engine Engine
	// Log takes what happens.
	Log *slog.Logger
}

// Scheme has the types that the controller reads and writes.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// Cluster is this node's connection to its cluster.
type Cluster struct {
	manager ctrl.Manager
	options Options
}

// Connect reads how the cluster is reached. It asks the cluster nothing: one that
// is away now is asked again by Run.
func Connect(o Options) (*Cluster, error) {
	scheme, err := Scheme()
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	ctrl.SetLogger(logr.FromSlogHandler(o.Log.Handler()))
	m, err := ctrl.NewManager(unthrottled(o.Access), ctrl.Options{
		Scheme:  scheme,
		Logger:  logr.FromSlogHandler(o.Log.Handler()),
		Metrics: server.Options{BindAddress: "0"}, // the daemon has its own

		MapperProvider: mapper,
		// An API server that is away, or that does not know PodMigrations yet, is
		// waited for.
		Controller: config.Controller{CacheSyncTimeout: 365 * 24 * time.Hour},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}:            {Field: fields.OneTermEqualSelector("spec.nodeName", o.Node)},
				&v1alpha1.PodMigration{}: {Transform: slim},
			},
		},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{
			&corev1.Node{}, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{},
		}}},
	})
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return &Cluster{manager: m, options: o}, nil
}

// unthrottled has the API server alone say what is too much: client-go's own limit, five
// calls a second for all migrations of the node together, would have a frozen pod wait in
// line behind the progress of others before it is agreed to its commit.
func unthrottled(access *rest.Config) *rest.Config {
	access = rest.CopyConfig(access)
	access.QPS = -1
	return access
}

// Run serves the node's PodMigrations until ctx ends. It returns when everything
// it began to write down is written or left to the next daemon.
func (cl *Cluster) Run(ctx context.Context) error {
	c, err := cl.newController(ctx)
	if err != nil {
		return err
	}
	if err := c.setup(cl.manager); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	err = cl.manager.Add(manager.RunnableFunc(func(context.Context) error { // once the caches are filled
		c.engine.SetRecovered(c.recovered)
		return nil
	}))
	if err == nil {
		err = cl.manager.Add(manager.RunnableFunc(cl.publish))
	}
	if err == nil {
		err = cl.manager.Start(ctx)
	}
	c.work.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// publish keeps what this node is in its Node object.
func (cl *Cluster) publish(ctx context.Context) error {
	return nodefacts.Keep(ctx, cl.manager.GetClient(), cl.options.Node, cl.options.Facts, func(err error) {
		cl.options.Log.Warn("what this node is is not written to its Node object", "error", err)
	})
}

func (cl *Cluster) newController(ctx context.Context) (*Controller, error) {
	o := cl.options
	c := &Controller{
		client: cl.manager.GetClient(), reader: cl.manager.GetAPIReader(), node: o.Node, engine: o.Engine,
		record: recorder{cl.manager.GetEventRecorder("godwit-node")}, log: o.Log, most: o.Moves, life: ctx,
		sessions: make(map[types.UID]*session), claims: make(unmadeClaims), waiting: make(map[types.UID]waiting),
	}
	c.check = &preflight{reader: c.reader, node: o.Node}
	return c, nil
}

// setup has the manager call the two reconcilers.
func (c *Controller) setup(m ctrl.Manager) error {
	if err := m.GetFieldIndexer().IndexField(c.life, &v1alpha1.PodMigration{}, unfinishedOf, podOfUnfinished); err != nil {
		return err
	}
	err := ctrl.NewControllerManagedBy(m).
		Named("migrations").
		For(&v1alpha1.PodMigration{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(c.migrationsOf)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(c)
	if err != nil {
		return err
	}
	coming := predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetAnnotations()[v1alpha1.AnnotationMigration] != "" })
	return ctrl.NewControllerManagedBy(m).
		Named("arrivals").
		Watches(&corev1.Pod{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(coming)).
		Watches(&v1alpha1.PodMigration{}, handler.EnqueueRequestsFromMapFunc(arrivalOf)).
		Complete(arrivals{c})
}
