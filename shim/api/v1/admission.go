package shimv1

import (
	"encoding/json"
	"fmt"
)

// AdmissionDir has one root-only file for each migration that the node daemon
// has agreed to take in, MIGRATION.json, with an Admission or nothing in it.
const AdmissionDir = "/run/godwit/migrations"

// Bounds of an Admission.
const (
	// MaxAdmission is the size of the file, bytes: it may be the daemon's whole
	// record of the migration, which has a pod's description.
	MaxAdmission = 16 << 20
	// maxExpected is how many containers a pod can have.
	maxExpected = 256
)

// Admission is what the daemon tells the shim of a destination's pod before it
// has containers.
type Admission struct {
	// AnswerEarly: the start of each container is answered as soon as it is parked,
	// but for the last one's. It is for a pod whose containers are started one after
	// the other, each when the one before runs.
	AnswerEarly bool `json:"answer_early,omitempty"`
	// ExpectedContainers is how many containers will be started. Required with
	// AnswerEarly.
	ExpectedContainers int `json:"expected_containers,omitempty"`
	// Closed: the migration is being called off, no container is admitted any more.
	Closed bool `json:"closed,omitempty"`
}

// DecodeAdmission reads an admission; a file without anything in it is the zero
// value. What else it holds is the daemon's own.
func DecodeAdmission(b []byte) (Admission, error) {
	var a Admission
	switch {
	case len(b) == 0:
		return a, nil
	case len(b) > MaxAdmission:
		return a, fmt.Errorf("admission of more than %d bytes", MaxAdmission)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return Admission{}, fmt.Errorf("admission: %w", err)
	}
	if err := a.valid(); err != nil {
		return Admission{}, err
	}
	return a, nil
}

// Encode writes the admission for its file.
func (a Admission) Encode() ([]byte, error) {
	if a == (Admission{}) {
		return nil, nil
	}
	if err := a.valid(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("admission: %w", err)
	}
	return b, nil
}

func (a Admission) valid() error {
	if a.ExpectedContainers < 0 || a.ExpectedContainers > maxExpected || a.AnswerEarly && a.ExpectedContainers == 0 {
		return fmt.Errorf("admission: %d containers are expected; a pod has 1 to %d", a.ExpectedContainers, maxExpected)
	}
	return nil
}
