package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodMigrationStatus is what has become of a move.
type PodMigrationStatus struct {
	// Phase is where it stands.
	//
	// +optional
	Phase Phase `json:"phase,omitempty"`

	// Conditions say what has been reached.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Migration is the id under which the nodes know it and log about it.
	//
	// +optional
	Migration string `json:"migration,omitempty"`

	// SourceNode is the node on which the pod was.
	//
	// +optional
	SourceNode string `json:"sourceNode,omitempty"`

	// SourcePod is the pod that is moved.
	//
	// +optional
	SourcePod *PodReference `json:"sourcePod,omitempty"`

	// DestinationNode is the node that the pod goes to.
	//
	// +optional
	DestinationNode string `json:"destinationNode,omitempty"`

	// DestinationPod is the pod as it is on the destination.
	//
	// +optional
	DestinationPod *PodReference `json:"destinationPod,omitempty"`

	// Owner is the controller that the pod has, empty for a bare pod: it makes the
	// destination's pod.
	//
	// +optional
	Owner *Owner `json:"owner,omitempty"`

	// Claim says whether the next pod that the owner makes is to be the
	// destination's; the admission webhook takes an open claim for one of them.
	//
	// +optional
	Claim Claim `json:"claim,omitempty"`

	// LatePod says that the destination's pod can be made only when the source's is
	// gone, so after the commit: the pod stands still meanwhile.
	//
	// +optional
	LatePod bool `json:"latePod,omitempty"`

	// Engine is what finds dirty pages: WriteProtect, SoftDirty or None.
	//
	// +optional
	Engine string `json:"engine,omitempty"`

	// EngineReason says in one sentence why.
	//
	// +optional
	EngineReason string `json:"engineReason,omitempty"`

	// Compression is what memory goes with at the moment, or went last, at which level, and why.
	//
	// +optional
	Compression string `json:"compression,omitempty"`

	// StopReason says why the rounds ended.
	//
	// +optional
	StopReason string `json:"stopReason,omitempty"`

	// Containers are the pod's, each with its state.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	Containers []ContainerStatus `json:"containers,omitempty"`

	// Rounds of memory so far; the first is the full copy. Beyond fifty the middle ones are left
	// out.
	//
	// +optional
	// +listType=map
	// +listMapKey=number
	Rounds []Round `json:"rounds,omitempty"`

	// MemoryBytes is the pod's memory when it was copied.
	//
	// +optional
	MemoryBytes int64 `json:"memoryBytes,omitempty"`

	// BytesSent is what went over the link so far, bytes.
	//
	// +optional
	BytesSent int64 `json:"bytesSent,omitempty"`

	// MissingPages is how many pages the destination still fetches from the source, in modes
	// PostCopy and Hybrid.
	//
	// +optional
	MissingPages int64 `json:"missingPages,omitempty"`

	// Rate of the copy at last, bytes a second.
	//
	// +optional
	Rate int64 `json:"rate,omitempty"`

	// DirtyRate at which the pod writes, bytes a second.
	//
	// +optional
	DirtyRate int64 `json:"dirtyRate,omitempty"`

	// PredictedDowntime is how long the pod would stand still if it were frozen now.
	//
	// +optional
	PredictedDowntime *metav1.Duration `json:"predictedDowntime,omitempty"`

	// Throttle says how far the pod is, or was at last, held back: throttled to 40 % of 2 CPUs.
	//
	// +optional
	Throttle string `json:"throttle,omitempty"`

	// StartTime is when a node took it up.
	//
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// CommitTime is when the destination came to own the pod.
	//
	// +optional
	CommitTime *metav1.Time `json:"commitTime,omitempty"`

	// CompletionTime is when it was over.
	//
	// +optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty"`

	// Total is from the start to the end.
	//
	// +optional
	Total *metav1.Duration `json:"total,omitempty"`

	// Downtime is from the freeze to the destination's answer that the pod runs.
	//
	// +optional
	Downtime *metav1.Duration `json:"downtime,omitempty"`

	// Stages are those of the cutover, in the order in which they began; they are known at the end.
	//
	// +optional
	Stages []Stage `json:"stages,omitempty"`

	// Message says what it does, waits for, or died of.
	//
	// +optional
	Message string `json:"message,omitempty"`
}

// Claim is the state of the offer to an owner's next pod to be the destination's.
//
// +kubebuilder:validation:Enum=Open;Taken
type Claim string

// The states of a claim; without one there is nothing to claim.
const (
	// ClaimOpen: the owner's next pod is to be the destination's.
	ClaimOpen Claim = "Open"
	// ClaimTaken: one is.
	ClaimTaken Claim = "Taken"
)

// PodReference is one pod, never another of the same name.
type PodReference struct {
	// Name of the pod, in the PodMigration's namespace.
	Name string `json:"name"`
	// UID of the pod; empty until it is known.
	//
	// +optional
	UID types.UID `json:"uid,omitempty"`
	// IP of the pod.
	//
	// +optional
	IP string `json:"ip,omitempty"`
}

// Owner is a pod's controller.
type Owner struct {
	// APIVersion of the owner.
	APIVersion string `json:"apiVersion"`
	// Kind of the owner: ReplicaSet, StatefulSet or Job.
	Kind string `json:"kind"`
	// Name of the owner, in the PodMigration's namespace.
	Name string `json:"name"`
	// UID of the owner.
	UID types.UID `json:"uid"`
}

// ContainerState is where one container of the pod stands.
//
// +kubebuilder:validation:Enum=Running;Copying;Frozen;Moved
type ContainerState string

// The states of a container.
const (
	// ContainerRunning: it runs at the source, nothing is copied.
	ContainerRunning ContainerState = "Running"
	// ContainerCopying: it runs at the source while its memory is copied.
	ContainerCopying ContainerState = "Copying"
	// ContainerFrozen: it is frozen at the source.
	ContainerFrozen ContainerState = "Frozen"
	// ContainerMoved: it runs at the destination.
	ContainerMoved ContainerState = "Moved"
)

// ContainerStatus is one container of the pod.
type ContainerStatus struct {
	// Name of the container.
	Name string `json:"name"`
	// Image under which the destination has the very image of the source.
	//
	// +optional
	Image string `json:"image,omitempty"`
	// State of it.
	//
	// +optional
	State ContainerState `json:"state,omitempty"`
}

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
