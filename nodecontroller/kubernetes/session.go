package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

const (
	// callTimeout is what one call of the API server may take.
	callTimeout = 3 * time.Second
	// progressInterval is how often progress is written at most.
	progressInterval = time.Second
	// settling is for how long after its commit nothing is written of a migration. The pod wants its node's processors
	// then, for the pages that it touches first; but for who waits for it, who reads the object has no use for it at once.
	settling = 500 * time.Millisecond
)

// errObjectGone: the PodMigration is no longer there, though it has a finalizer.
var errObjectGone = errors.New("the PodMigration is gone")

// session is a running migration of which this node is the source: it is the
// cluster's part in it, and writes down what happens.
type session struct {
	c      *Controller
	id     string
	source *corev1.Pod
	plan   Plan
	move   Move // set before the first event
	log    *slog.Logger

	turn chan struct{} // held by who reads or writes object
	// object is the PodMigration as last read or written.
	object *v1alpha1.PodMigration

	progress time.Time // when progress was last written; follow's alone
	frozen   bool      // the last step was that the pod is to be frozen; follow's alone
	// committed is the commit until it is written down, with what comes next; follow's alone.
	committed *nodev1.Event
	// freezing is that step if Agree is to write it, guarded by turn.
	freezing *nodev1.Event
	// quiet is closed, by hush, when all before that step is written down, and it as well unless Agree does that.
	quiet chan struct{}
	hush  func()
}

func newSession(c *Controller, m *v1alpha1.PodMigration, pod *corev1.Pod, p Plan) *session {
	quiet := make(chan struct{})
	return &session{
		c: c, id: idOf(m), source: pod.DeepCopy(), plan: p, object: m.DeepCopy(), turn: make(chan struct{}, 1),
		quiet: quiet, hush: sync.OnceFunc(func() { close(quiet) }),
		log: c.log.With("migration", idOf(m), "object", client.ObjectKeyFromObject(m).String()),
	}
}

// current is the PodMigration as last known.
func (s *session) current(ctx context.Context) (*v1alpha1.PodMigration, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer s.give()
	return s.object, nil
}

func (s *session) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) give() { <-s.turn }

// update changes the status as change makes it, on the newest version there is.
// change's error ends it, and so does errObjectGone.
func (s *session) update(ctx context.Context, change func(*v1alpha1.PodMigration) error) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	for {
		m := s.object.DeepCopy()
		if err := change(m); err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(m.Status, s.object.Status) {
			return nil
		}
		err := s.call(ctx, func(ctx context.Context) error { return s.c.client.Status().Update(ctx, m) })
		switch {
		case err == nil:
			s.object = m
			return nil
		case apierrors.IsNotFound(err):
			return errObjectGone
		case !apierrors.IsConflict(err):
			return err
		}
		if err := s.refresh(ctx); err != nil {
			return err
		}
	}
}

// refresh reads the object again; turn is held.
func (s *session) refresh(ctx context.Context) error {
	m := new(v1alpha1.PodMigration)
	err := s.call(ctx, func(ctx context.Context) error {
		return s.c.reader.Get(ctx, client.ObjectKeyFromObject(s.object), m)
	})
	if apierrors.IsNotFound(err) || err == nil && m.UID != s.object.UID {
		return errObjectGone
	}
	if err == nil {
		s.object = m
	}
	return err
}

func (s *session) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx)
}

// abort breaks the migration off, unless it is committed.
func (s *session) abort(why error) {
	if err := s.move.Abort(why); err != nil {
		s.log.Info("too late to break off", "error", err)
	}
}

// follow writes what happens into the object until the migration is over.
func (s *session) follow() {
	ctx := s.c.life
	defer s.c.forget(s.object.UID)
	if err := s.move.Follow(ctx, func(e *nodev1.Event) error { return s.happened(ctx, e) }); err != nil && ctx.Err() == nil {
		s.log.Error("what happens is no longer written down", "error", err)
	}
}

// happened takes one event in, and writes down what is to be written.
func (s *session) happened(ctx context.Context, e *nodev1.Event) error {
	if phaseOf(e.GetPhase()).Over() && e.GetResult() == nil {
		return nil // the last event says it too, and what came of it
	}
	if e.GetKind() == "progress" {
		if s.frozen || s.committed != nil { // see Quiet, and settling
			return nil
		}
		if time.Since(s.progress) < progressInterval {
			return nil
		}
		s.progress = time.Now()
	} else {
		s.frozen = e.GetKind() == "freezing"
	}
	if e.GetKind() == "freezing" {
		defer s.hush()
		if !s.plan.LatePod {
			return s.leaveToAgree(ctx, e)
		}
	}
	if e.GetKind() == "committed" && !s.plan.LatePod {
		s.committed = e
		return nil // something follows at once: that the pod runs, or that its node does not answer
	}
	all := []*nodev1.Event{e}
	if s.committed != nil {
		if err := s.settle(ctx); err != nil {
			return err
		}
		all, s.committed = []*nodev1.Event{s.committed, e}, nil
	}
	return s.write(ctx, all)
}

// settle waits until a committed pod has had its processors for a while.
func (s *session) settle(ctx context.Context) error {
	select {
	case <-time.After(time.Until(time.Unix(0, s.committed.GetUnixNano()).Add(settling))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write writes down what happened since the last of it that was, however long the API server is away.
func (s *session) write(ctx context.Context, all []*nodev1.Event) error {
	e := all[len(all)-1]
	for {
		var written *v1alpha1.PodMigration
		err := s.update(ctx, func(m *v1alpha1.PodMigration) error {
			written = m
			for _, e := range all {
				if err := apply(&m.Status, e, m.Generation); err != nil {
					return err
				}
			}
			return nil
		})
		switch {
		case err == nil:
			for _, e := range all {
				if tell, ok := events.Of(e); ok {
					s.c.record.Record(written, tell)
				}
			}
			if e.GetKind() == "resumed" {
				s.settleArrival(ctx)
			}
			return nil
		case errors.Is(err, errObjectGone), errors.Is(err, ErrIllegalMove):
			s.log.Error("an event is not written down", "kind", e.GetKind(), "error", err)
			return nil
		case e.GetKind() == "progress":
			return nil // the next one tells as much
		}
		s.log.Warn("the API server does not take the status, trying again", "error", err)
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leaveToAgree has Agree write down, together with what it has to say, that the pod is to be frozen.
func (s *session) leaveToAgree(ctx context.Context, e *nodev1.Event) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	s.freezing = e
	if tell, ok := events.Of(e); ok {
		s.c.record.Record(s.object, tell)
	}
	return nil
}

// checkArrival sees that the destination's pod is still wanted. kubelet would let
// it run, and end it then: it does not look at a pod whose last container is being
// started (kubernetes: pkg/kubelet/kubelet.go, SyncPod's context has no end).
func (s *session) checkArrival(ctx context.Context) error {
	m, err := s.current(ctx)
	if err != nil {
		return err
	}
	pods := []corev1.Pod{{}}
	if p := m.Status.DestinationPod; p != nil {
		err = s.call(ctx, func(ctx context.Context) error {
			return s.c.reader.Get(ctx, client.ObjectKey{Namespace: m.Namespace, Name: p.Name}, &pods[0])
		})
	} else {
		pods, err = s.c.arrivals(ctx, m)
	}
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	for i := range pods {
		if pods[i].Annotations[v1alpha1.AnnotationMigration] == s.id && pods[i].DeletionTimestamp.IsZero() {
			return nil
		}
	}
	return errPodGone
}

// patiently repeats what an API server that is away does not answer, until ctx
// ends: while the pod runs nothing is lost by that.
func (s *session) patiently(ctx context.Context, f func(context.Context) error) error {
	for told := false; ; told = true {
		err := f(ctx)
		if err == nil || !transient(err) {
			return err
		}
		if !told {
			s.log.Warn("the API server is asked again until it answers", "error", err)
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return err
		}
	}
}

// Quiet implements nodecontroller's Orchestrator: the last word before the freeze is that it
// comes, and after that one happened leaves progress out.
func (s *session) Quiet(ctx context.Context, _ string) error {
	select {
	case <-s.quiet:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the PodMigration's status: %w", ctx.Err())
	}
}

// Await implements nodecontroller's Orchestrator.
func (s *session) Await(ctx context.Context, _ string) error {
	look := s.checkArrival
	if s.plan.LatePod {
		look = s.checkWanted
	}
	if err := s.patiently(ctx, look); err != nil {
		return err
	}
	return s.patiently(ctx, s.checkSource)
}

// checkSource sees that nobody has deleted the pod that is moved: what kubelet ends here would run on there.
func (s *session) checkSource(ctx context.Context) error {
	pod := new(corev1.Pod)
	err := s.call(ctx, func(ctx context.Context) error {
		return s.c.reader.Get(ctx, client.ObjectKeyFromObject(s.source), pod)
	})
	switch {
	case apierrors.IsNotFound(err), err == nil && (pod.UID != s.source.UID || !pod.DeletionTimestamp.IsZero()):
		return errSourceDeleted
	default:
		return err
	}
}

// checkWanted sees that the migration is, by the API server's word.
func (s *session) checkWanted(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer s.give()
	if err := s.refresh(ctx); err != nil {
		return err
	}
	return wanted(s.object)
}

// wanted is why a migration must not commit, nil if it may.
func wanted(m *v1alpha1.PodMigration) error {
	switch {
	case m.Spec.Cancel, !m.DeletionTimestamp.IsZero():
		return nodecontroller.ErrCancelled
	case m.Status.Phase.Over():
		return fmt.Errorf("the PodMigration is %s already: %s", m.Status.Phase, m.Status.Message)
	}
	return nil
}

var (
	// errPodGone: the destination's pod was deleted before the commit.
	errPodGone = errors.New("the destination's pod was deleted")
	// errSourceDeleted: so was the source's.
	errSourceDeleted = errors.New("the pod that is moved was deleted")
)

// Agree is the commit as far as the cluster is concerned: one update of the
// status, which loses against a cancellation, a deletion, and whoever ended the
// migration: also the destination's node, when the pod there is deleted after Await
// has seen it. From then on nobody but this node ends it. That the commit was made is
// written when it was: the pod need not stand still for that. It implements nodecontroller's Orchestrator.
func (s *session) Agree(ctx context.Context, _ string) error {
	return s.update(ctx, func(m *v1alpha1.PodMigration) error {
		if m.Agreed() && !m.Status.Phase.Over() {
			return nil // it did so before
		}
		if err := wanted(m); err != nil {
			return err
		}
		if s.freezing != nil {
			if err := apply(&m.Status, s.freezing, m.Generation); err != nil {
				return err
			}
		}
		if s.plan.LatePod && m.Status.Owner != nil && m.Status.Owner.Kind == kindStatefulSet {
			// From here on whoever removes the source's pod has its owner make the
			// destination's.
			m.Status.Claim = v1alpha1.ClaimOpen
		}
		return agree(m)
	})
}
