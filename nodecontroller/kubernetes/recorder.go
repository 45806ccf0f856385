package kubernetes

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// recorder makes Events of what happens.
type recorder struct{ events.EventRecorder }

// Happened implements Recorder.
func (r recorder) Happened(m *v1alpha1.PodMigration, reason, message string) {
	kind := corev1.EventTypeNormal
	if m.Status.Phase == v1alpha1.PhaseFailed {
		kind = corev1.EventTypeWarning
	}
	if len(message) > maxNote {
		message = message[:maxNote]
	}
	r.Eventf(m, nil, kind, reason, "Migrate", "%s", message)
}

// maxNote is how long an Event's note may be
// (kubernetes: pkg/apis/core/validation/events.go, NoteLengthLimit).
const maxNote = 1024
