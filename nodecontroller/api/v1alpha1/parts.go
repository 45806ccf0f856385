package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Round is one round of memory.
type Round struct {
	// Number; 0 is the full copy.
	Number int32 `json:"number"`
	// DirtyPages that it found, of 4 KiB.
	DirtyPages int64 `json:"dirtyPages"`
	// Bytes of pages that it sent.
	Bytes int64 `json:"bytes"`
	// WireBytes is what they took on the link.
	WireBytes int64 `json:"wireBytes"`
	// Duration of it.
	Duration metav1.Duration `json:"duration"`
	// Stood is how long processes stood still for it.
	Stood metav1.Duration `json:"stood"`
}

// Stage is a part of the cutover; docs/cutover.md says which there are.
type Stage struct {
	// Name of it.
	Name string `json:"name"`
	// Begin is how long after the freeze it began; below zero if the pod still ran.
	Begin metav1.Duration `json:"begin"`
	// Duration of it.
	Duration metav1.Duration `json:"duration"`
}
