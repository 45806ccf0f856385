package kubernetes

import (
	clientevents "k8s.io/client-go/tools/events"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// maxNote is how long an Event's note may be, bytes
// (kubernetes: pkg/apis/core/validation/events.go, NoteLengthLimit).
const maxNote = 1024

// recorder makes Events of the cluster.
type recorder struct{ clientevents.EventRecorder }

// Record implements Recorder.
func (r recorder) Record(m *v1alpha1.PodMigration, e events.Event) {
	note := e.Message
	if len(note) > maxNote {
		note = note[:maxNote]
	}
	r.Eventf(m, nil, e.Type, e.Reason, "Migrate", "%s", note)
}
