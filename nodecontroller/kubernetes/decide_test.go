package kubernetes

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestWhatIsDoneNextFollowsFromObjectAndNode(t *testing.T) {
	const untaken, agreedTo v1alpha1.Phase = "Pending, at no node", "Migrating, agreed to"
	here, followed, active := view{here: true}, view{here: true, followed: true}, view{here: true, active: true}
	for _, c := range []struct {
		name                       string
		phase                      v1alpha1.Phase
		cancel, deleted, finalizer bool
		v                          view
		want                       action
	}{
		{"a new one of another node", "", false, false, false, view{}, actNothing},
		{"a new one of this node", "", false, false, false, here, actAccept},
		{"a new one that is deleted already", "", false, true, false, here, actNothing},
		{"a new one that is deleted while it is accepted", "", false, true, true, here, actCancel},
		{"one of another node that is deleted while it is accepted", "", false, true, true, view{}, actCancel},
		{"a new one that is cancelled already", "", true, false, false, here, actAccept},
		{"one that waits for its node", untaken, false, false, false, here, actAccept},
		{"one that waits for another node", untaken, false, false, false, view{}, actNothing},
		{"one that waits and is deleted", untaken, false, true, false, here, actNothing},
		{"one that waits and is deleted while it is accepted", untaken, false, true, true, view{}, actCancel},
		{"a pending one", v1alpha1.PhasePending, false, false, true, here, actBegin},
		{"a pending one without its pod, which begin refuses", v1alpha1.PhasePending, false, false, true, view{}, actBegin},
		{"a pending one that is cancelled", v1alpha1.PhasePending, true, false, true, here, actCancel},
		{"a pending one that is deleted", v1alpha1.PhasePending, false, true, true, here, actCancel},
		{"one under way", v1alpha1.PhaseMigrating, false, false, true, followed, actNothing},
		{"one under way that is cancelled", v1alpha1.PhaseMigrating, true, false, true, followed, actAbort},
		{"one under way that is deleted", v1alpha1.PhasePreparing, false, true, true, followed, actAbort},
		{"one committed that is cancelled", v1alpha1.PhaseMigrationComplete, true, false, true, followed, actNothing},
		{"one of an earlier daemon that still ends", v1alpha1.PhaseMigrating, false, false, true, active, actWait},
		{"one of an earlier daemon, cancelled, that still ends", v1alpha1.PhaseMigrating, true, false, true, active, actWait},
		{"one of an earlier daemon that has ended", v1alpha1.PhaseMigrating, false, false, true, here, actFail},
		{"one of an earlier daemon, cancelled, that has ended", v1alpha1.PhaseMigrating, true, false, true, here, actCancel},
		{"a committed one of an earlier daemon that still ends", v1alpha1.PhaseMigrationComplete, false, false, true, active, actWait},
		{"a committed one of an earlier daemon", v1alpha1.PhaseMigrationComplete, false, false, true, view{sourceGone: true}, actSucceed},
		{"a committed one of an earlier daemon, of which the destination is gone", v1alpha1.PhaseMigrationComplete, false, false, true, view{sourceGone: true, lost: "node b is gone"}, actLose},
		{"one that the node never heard to be committed, of which the destination is gone", v1alpha1.PhaseMigrationComplete, false, false, true, view{here: true, lost: "node b is gone"}, actFail},
		{"one that the node never heard to be committed", v1alpha1.PhaseMigrationComplete, false, false, true, here, actFail},
		{"one that the cluster agreed to", agreedTo, false, false, true, followed, actNothing},
		{"one that the cluster agreed to, cancelled since", agreedTo, true, false, true, followed, actAbort},
		{"one that the cluster agreed to, deleted since", agreedTo, false, true, true, followed, actAbort},
		{"one that the cluster agreed to, of an earlier daemon that still ends", agreedTo, true, false, true, active, actWait},
		{"one that the cluster agreed to, whose daemon broke it off and ended", agreedTo, false, false, true, here, actFail},
		{"one that the cluster agreed to, cancelled since, whose daemon broke it off and ended", agreedTo, true, false, true, here, actCancel},
		{"one that the cluster agreed to, whose daemon carried it through and ended", agreedTo, false, false, true, view{sourceGone: true}, actSucceed},
		{"the same, cancelled too late", agreedTo, true, false, true, view{sourceGone: true}, actSucceed},
		{"the same, deleted too late", agreedTo, false, true, true, view{sourceGone: true}, actSucceed},
		{"the same, and the destination is gone", agreedTo, false, false, true, view{sourceGone: true, lost: "node b is gone"}, actLose},
		{"one that another has ended", v1alpha1.PhaseFailed, false, false, true, followed, actAbort},
		{"one that has succeeded a moment ago", v1alpha1.PhaseSucceeded, false, false, true, followed, actWait},
		{"one that is over and still ends here", v1alpha1.PhaseFailed, false, false, true, active, actWait},
		{"one that is over", v1alpha1.PhaseFailed, false, false, true, here, actClean},
		{"one that is over and cleaned", v1alpha1.PhaseFailed, false, false, false, here, actNothing},
		{"one that has succeeded", v1alpha1.PhaseSucceeded, false, false, true, view{}, actClean},
	} {
		m := &v1alpha1.PodMigration{Spec: v1alpha1.PodMigrationSpec{Cancel: c.cancel}, Status: v1alpha1.PodMigrationStatus{Phase: c.phase, SourceNode: "a"}}
		switch c.phase {
		case untaken:
			m.Status.Phase, m.Status.SourceNode = v1alpha1.PhasePending, ""
		case agreedTo:
			m.Status.Phase = v1alpha1.PhaseMigrating
			agreed(m)
		case "":
			m.Status.SourceNode = ""
		}
		if c.deleted {
			now := metav1.Now()
			m.DeletionTimestamp = &now
		}
		if c.finalizer {
			m.Finalizers = []string{v1alpha1.Finalizer}
		}
		if got := decide(m, c.v); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAPodIsRemovedOnlyIfItCanNeverRun(t *testing.T) {
	with := func(p v1alpha1.Phase) *v1alpha1.PodMigration {
		return &v1alpha1.PodMigration{Status: v1alpha1.PodMigrationStatus{Phase: p}}
	}
	for _, c := range []struct {
		name   string
		m      *v1alpha1.PodMigration
		active bool
		want   arrivalAction
	}{
		{"of no PodMigration", nil, false, arrivalKeep},
		{"under way", with(v1alpha1.PhaseMigrating), true, arrivalKeep},
		{"under way, not known here yet", with(v1alpha1.PhaseMigrating), false, arrivalKeep},
		{"failed, and still held here", with(v1alpha1.PhaseFailed), true, arrivalKeep},
		{"failed", with(v1alpha1.PhaseFailed), false, arrivalRemove},
		{"cancelled", with(v1alpha1.PhaseCancelled), false, arrivalRemove},
		{"committed", with(v1alpha1.PhaseMigrationComplete), false, arrivalKeep},
		{"come", with(v1alpha1.PhaseSucceeded), false, arrivalKeep},
	} {
		if got := decideArrival(c.m, c.active); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestAPhaseMovesForwardOrNotAtAll(t *testing.T) {
	all := []v1alpha1.Phase{
		"", v1alpha1.PhasePending, v1alpha1.PhasePreparing, v1alpha1.PhaseStarted, v1alpha1.PhaseMigrating,
		v1alpha1.PhaseMigrationComplete, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled,
	}
	for _, from := range all {
		for _, to := range all {
			err := movePhase(from, to)
			switch {
			case err != nil && !errors.Is(err, ErrIllegalMove):
				t.Errorf("%q to %q: %v", from, to, err)
			case err == nil && from.Over() && to != from:
				t.Errorf("%q was left for %q", from, to)
			case err == nil && earlier(to, from):
				t.Errorf("%q went back to %q", from, to)
			case err == nil && to == v1alpha1.PhaseCancelled && from.Committed():
				t.Errorf("%q was cancelled", from)
			case err == nil && to == v1alpha1.PhaseSucceeded && !from.Committed():
				t.Errorf("%q succeeded without a commit", from)
			}
		}
	}
}

func TestAReleasedPodIsPutBackAsItWas(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		selector   map[string]string
		want       string
	}{
		{"of a Deployment", kindReplicaSet, map[string]string{"app": "web", "pod-template-hash": "abc"}, "pod-template-hash"},
		{"of a ReplicaSet alone", kindReplicaSet, map[string]string{"app": "web"}, "app"},
		{"of a Job", kindJob, map[string]string{"batch.kubernetes.io/controller-uid": "1"}, "batch.kubernetes.io/controller-uid"},
	} {
		label, err := releaseLabel(c.kind, &metav1.LabelSelector{MatchLabels: c.selector})
		if err != nil || label != c.want {
			t.Errorf("%s: label %q, %v", c.name, label, err)
			continue
		}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"other": "x"}}}
		for k, v := range c.selector {
			pod.Labels[k] = v
		}
		before := pod.DeepCopy()
		for range 2 {
			if err := release(pod, label); err != nil {
				t.Fatal(err)
			}
		}
		if pod.Labels[label] == before.Labels[label] {
			t.Errorf("%s: it is still selected", c.name)
		}
		if did, err := putBack(pod); err != nil || !did {
			t.Errorf("%s: put back: %v, %v", c.name, did, err)
		}
		if len(pod.Labels) != len(before.Labels) || pod.Labels[label] != before.Labels[label] || len(pod.Annotations) != 0 {
			t.Errorf("%s: labels %v, annotations %v", c.name, pod.Labels, pod.Annotations)
		}
		if did, err := putBack(pod); err != nil || did {
			t.Errorf("%s: put back twice: %v, %v", c.name, did, err)
		}
	}
	if _, err := releaseLabel(kindReplicaSet, &metav1.LabelSelector{}); err == nil {
		t.Error("a pod left an owner that selects by nothing")
	}
	if _, err := putBack(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationReleased: "{"}}}); err == nil {
		t.Error("a note that cannot be read was taken for one")
	}
}
