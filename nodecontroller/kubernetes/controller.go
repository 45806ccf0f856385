package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// lookAgain is the pause before something that no event announces is looked at
// again.
const lookAgain = time.Second

// Controller carries out what decide says about the PodMigrations of one node.
type Controller struct {
	client client.Client // reads from the cache: PodMigrations, and this node's pods
	reader client.Reader // asks the API server
	node   string
	engine Engine
	check  Preflight
	record Recorder
	log    *slog.Logger
	// most is how many migrations this node is the source of at a time; 0: without limit.
	most int

	// life ends when the daemon stops; work are the sessions.
	life context.Context
	work sync.WaitGroup

	mu       sync.Mutex
	sessions map[types.UID]*session // of running migrations, guarded by mu
	claims   unmadeClaims           // guarded by mu
	waiting  map[types.UID]waiting  // those that asked for a place and got none, guarded by mu
}

// Preflight is what must hold before anything is done for a migration.
type Preflight interface {
	// Check says where the pod goes and how, or an error that names every obstacle.
	Check(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) (Plan, error)
}

// Plan is how a pod will be moved.
type Plan struct {
	// Node is the destination.
	Node string
	// Images are, by container, what the destination's are made from.
	Images map[string]string
	// LatePod: the destination's pod can be made only when the source's is gone.
	LatePod bool
	// Warnings are what may surprise its user.
	Warnings []string
}

// Recorder tells a cluster's users what happens to an object.
type Recorder interface {
	Record(m *v1alpha1.PodMigration, e events.Event)
}

// Reconcile does what is next for one PodMigration, on the source's node.
func (c *Controller) Reconcile(ctx context.Context, r ctrl.Request) (ctrl.Result, error) {
	m := new(v1alpha1.PodMigration)
	if err := c.client.Get(ctx, r.NamespacedName, m); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if m.Status.SourceNode != "" && m.Status.SourceNode != c.node {
		return ctrl.Result{}, nil
	}
	pod, err := c.localPod(ctx, m)
	if err != nil {
		return ctrl.Result{}, err
	}
	v := view{here: pod != nil, followed: c.session(m.UID) != nil, active: c.engine.Active(idOf(m))}
	if m.Agreed() && !m.Status.Phase.Over() && !v.followed && !v.active {
		if v.sourceGone, err = c.sourceGone(ctx, m); err != nil {
			return ctrl.Result{}, err
		}
		if v.lost, err = c.lost(ctx, m); err != nil {
			return ctrl.Result{}, err
		}
	}
	what := decide(m, v)
	if what != actNothing {
		c.log.Debug("PodMigration", "migration", idOf(m), "object", r.String(), "phase", string(m.Status.Phase), "action", what.String())
	}
	if what == actLose {
		return ctrl.Result{}, c.end(ctx, m, v1alpha1.PhaseFailed, lossMessage(m, v.lost))
	}
	switch {
	case what == actNothing && v.followed:
		return c.reopen(ctx, m)
	case what == actWait:
		if _, err := c.reopen(ctx, m); err != nil {
			return ctrl.Result{}, err
		}
	default:
		c.claimSeen(m.UID)
	}
	return c.act(ctx, what, m, pod)
}

// act carries out an action.
func (c *Controller) act(ctx context.Context, what action, m *v1alpha1.PodMigration, pod *corev1.Pod) (ctrl.Result, error) {
	switch what {
	case actAccept:
		return ctrl.Result{}, c.accept(ctx, m, pod)
	case actBegin:
		return c.begin(ctx, m, pod)
	case actAbort:
		if s := c.session(m.UID); s != nil {
			s.abort(whyAbort(m))
		}
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	case actWait:
		return ctrl.Result{RequeueAfter: lookAgain}, nil
	case actCancel:
		return ctrl.Result{}, c.end(ctx, uncommitted(m), v1alpha1.PhaseCancelled, "cancelled")
	case actFail:
		return ctrl.Result{}, c.end(ctx, uncommitted(m), v1alpha1.PhaseFailed, "the node's daemon was restarted before the commit: the pod runs on")
	case actSucceed:
		return ctrl.Result{}, c.end(ctx, m, v1alpha1.PhaseSucceeded, "nothing of the pod is left on "+c.node)
	case actClean:
		return c.clean(ctx, m)
	}
	return ctrl.Result{}, nil
}

// whyAbort is why a migration is broken off: its user's wish, or what ended it.
func whyAbort(m *v1alpha1.PodMigration) error {
	if m.Status.Phase == v1alpha1.PhaseFailed {
		return errors.New(m.Status.Message)
	}
	return nodecontroller.ErrCancelled
}

// localPod is the pod to be moved if it is on this node, or nil.
func (c *Controller) localPod(ctx context.Context, m *v1alpha1.PodMigration) (*corev1.Pod, error) {
	pod := new(corev1.Pod)
	err := c.client.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Spec.PodName}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("pod %s: %w", m.Spec.PodName, err)
	case pod.Spec.NodeName != c.node, m.Status.SourcePod != nil && m.Status.SourcePod.UID != pod.UID:
		return nil, nil
	}
	return pod, nil
}

// sourceGone says whether the pod that was to be moved has left the cluster.
func (c *Controller) sourceGone(ctx context.Context, m *v1alpha1.PodMigration) (bool, error) {
	if m.Status.SourcePod == nil {
		return true, nil
	}
	pod := new(corev1.Pod)
	err := c.reader.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: m.Status.SourcePod.Name}, pod)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && pod.UID != m.Status.SourcePod.UID, client.IgnoreNotFound(err)
}

// accept takes a PodMigration up: from here on it is this node's.
func (c *Controller) accept(ctx context.Context, m *v1alpha1.PodMigration, pod *corev1.Pod) error {
	m = m.DeepCopy()
	if before := m.DeepCopy(); controllerutil.AddFinalizer(m, v1alpha1.Finalizer) {
		if err := c.client.Patch(ctx, m, metadataOf(before)); err != nil {
			return ignoreConflict(err)
		}
	}
	now := metav1.Now()
	m.Status = v1alpha1.PodMigrationStatus{
		Phase:      v1alpha1.PhasePending,
		Migration:  idOf(m),
		SourceNode: c.node,
		SourcePod:  &v1alpha1.PodReference{Name: pod.Name, UID: pod.UID, IP: pod.Status.PodIP},
		Owner:      ownerOf(pod),
		StartTime:  &now,
		Message:    "accepted",
	}
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionTakenUp, Status: metav1.ConditionTrue, Reason: "Accepted", Message: "by node " + c.node, ObservedGeneration: m.Generation,
	})
	for _, s := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if s.State.Running != nil {
			m.Status.Containers = append(m.Status.Containers, v1alpha1.ContainerStatus{Name: s.Name, Image: s.Image, State: v1alpha1.ContainerRunning})
		}
	}
	if err := c.client.Status().Update(ctx, m); err != nil {
		return ignoreConflict(err)
	}
	return nil
}

// uncommitted is a migration that its daemon has broken off, as it is to be written: whatever the cluster agreed to did not come.
func uncommitted(m *v1alpha1.PodMigration) *v1alpha1.PodMigration {
	m = m.DeepCopy()
	disagree(&m.Status, "BrokenOff", "nothing was committed", m.Generation)
	return m
}

// end writes the end of a migration that no session follows.
func (c *Controller) end(ctx context.Context, m *v1alpha1.PodMigration, to v1alpha1.Phase, message string) error {
	m = m.DeepCopy()
	if agreed := m.AgreedSince(); to == v1alpha1.PhaseSucceeded && agreed != nil { // the daemon that committed it could not say so
		if err := complete(&m.Status, *agreed); err != nil {
			return err
		}
	}
	if err := movePhase(m.Status.Phase, to); err != nil {
		return err
	}
	now := metav1.Now()
	m.Status.Phase, m.Status.Message, m.Status.CompletionTime = to, message, &now
	if m.Status.StartTime != nil {
		total := microseconds(uint64(now.Sub(m.Status.StartTime.Time).Microseconds()))
		m.Status.Total = &total
	}
	if err := c.client.Status().Update(ctx, m); err != nil {
		return ignoreConflict(err)
	}
	kind := events.Normal
	if to == v1alpha1.PhaseFailed {
		kind = events.Warning
	}
	c.record.Record(m, events.Event{Type: kind, Reason: string(to), Message: message})
	return nil
}

// session is that of a PodMigration, nil if there is none.
func (c *Controller) session(uid types.UID) *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions[uid]
}

// metadataOf has a patch carry what differs from before, which is to be the newest:
// the rest of an object, written again, is not always what its user wrote (30m
// becomes 30m0s).
func metadataOf(before client.Object) client.Patch {
	return client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
}

// ignoreConflict leaves a conflict to the event that caused it.
func ignoreConflict(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func hasFinalizer(m *v1alpha1.PodMigration) bool {
	return controllerutil.ContainsFinalizer(m, v1alpha1.Finalizer)
}
