package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PodMigrationSpec asks for a move.
//
// +kubebuilder:validation:XValidation:rule="self.podName == oldSelf.podName && has(self.targetNode) == has(oldSelf.targetNode) && (!has(self.targetNode) || self.targetNode == oldSelf.targetNode)",message="podName and targetNode cannot be changed: make another PodMigration"
// +kubebuilder:validation:XValidation:rule="self.mode == oldSelf.mode && self.tracker == oldSelf.tracker && self.compression == oldSelf.compression",message="mode, tracker and compression cannot be changed: make another PodMigration"
// +kubebuilder:validation:XValidation:rule="has(self.preCopy) == has(oldSelf.preCopy) && (!has(self.preCopy) || self.preCopy == oldSelf.preCopy)",message="preCopy cannot be changed: make another PodMigration"
// +kubebuilder:validation:XValidation:rule="has(self.timeout) == has(oldSelf.timeout) && (!has(self.timeout) || duration(self.timeout) == duration(oldSelf.timeout)) && has(self.bandwidth) == has(oldSelf.bandwidth) && (!has(self.bandwidth) || self.bandwidth == oldSelf.bandwidth) && has(self.keepSourceOnFailure) == has(oldSelf.keepSourceOnFailure) && (!has(self.keepSourceOnFailure) || self.keepSourceOnFailure == oldSelf.keepSourceOnFailure)",message="timeout, bandwidth and keepSourceOnFailure cannot be changed: make another PodMigration"
// +kubebuilder:validation:XValidation:rule="has(self.nodeSelector) == has(oldSelf.nodeSelector) && (!has(self.nodeSelector) || self.nodeSelector == oldSelf.nodeSelector) && has(self.affinity) == has(oldSelf.affinity)",message="nodeSelector and affinity cannot be changed: make another PodMigration"
// +kubebuilder:validation:XValidation:rule="!(has(oldSelf.cancel) && oldSelf.cancel) || (has(self.cancel) && self.cancel)",message="a cancelled PodMigration stays cancelled"
// +kubebuilder:validation:XValidation:rule="!has(self.targetNode) || (!has(self.nodeSelector) && !has(self.affinity))",message="targetNode leaves nothing to choose: leave out nodeSelector and affinity, or targetNode"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Cold' || self.tracker == 'Auto' || self.tracker == 'None'",message="mode Cold has no use for a tracker: leave it out"
// +kubebuilder:validation:XValidation:rule="self.mode != 'PostCopy' || self.tracker == 'Auto' || self.tracker == 'None'",message="mode PostCopy has no use for a tracker: leave it out"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Hybrid' || self.tracker != 'None'",message="mode Hybrid needs a tracker: ask for mode PostCopy, or for another tracker"
// +kubebuilder:validation:XValidation:rule="self.mode != 'Live' || self.tracker != 'None'",message="mode Live needs a tracker: ask for mode Cold, or for another tracker"
type PodMigrationSpec struct {
	// PodName is the pod to move, in the namespace of this object.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	PodName string `json:"podName"`

	// TargetNode is the node to move it to. Without it a node is chosen as the
	// scheduler would, among those that can take the pod in.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	TargetNode string `json:"targetNode,omitempty"`

	// NodeSelector narrows the choice of a node, beside the pod's own.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=64
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Affinity narrows the choice of a node, beside the pod's own.
	//
	// +optional
	Affinity *corev1.NodeAffinity `json:"affinity,omitempty"`

	// Mode is Live (memory is copied in rounds while the pod runs) or Cold (the pod
	// is frozen first).
	//
	// +optional
	// +kubebuilder:default=Live
	Mode Mode `json:"mode,omitempty"`

	// Tracker finds the pages that are written while memory is copied. Auto takes
	// the best that the node has.
	//
	// +optional
	// +kubebuilder:default=Auto
	Tracker Tracker `json:"tracker,omitempty"`

	// PreCopy says when the rounds end.
	//
	// +optional
	PreCopy *PreCopy `json:"preCopy,omitempty"`

	// Timeout is what the migration has until its commit. After that it fails and
	// the source runs on.
	//
	// +optional
	// +kubebuilder:default="30m"
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="a timeout is a positive duration, such as 30m"
	Timeout *metav1.Duration `json:"timeout,omitempty"`

	// Compression of what is sent.
	//
	// +optional
	// +kubebuilder:default=Auto
	Compression Compression `json:"compression,omitempty"`

	// Bandwidth is what the migration may take of the link, bytes a second. Without
	// it nothing limits it.
	//
	// +optional
	Bandwidth *resource.Quantity `json:"bandwidth,omitempty"`

	// Priority decides who goes first if more pods are to leave a node than may at a
	// time: the higher, and among the same the older.
	//
	// +optional
	Priority int32 `json:"priority,omitempty"`

	// CompareDump is for who looks for a fault: CRIU dumps the frozen pod by itself as well, and
	// the destination compares with that, page by page, what it would restore. One page of
	// difference, and the pod runs on where it is. It stands still for much longer.
	//
	// +optional
	CompareDump bool `json:"compareDump,omitempty"`

	// KeepSourceOnFailure has the source run on if the migration fails. With false a
	// pod that could not be moved is deleted instead, as an eviction would, and its
	// owner makes it anew elsewhere; a cancelled migration keeps the source always.
	//
	// +optional
	// +kubebuilder:default=true
	KeepSourceOnFailure *bool `json:"keepSourceOnFailure,omitempty"`

	// Cancel breaks the migration off, if it is not committed.
	//
	// +optional
	Cancel bool `json:"cancel,omitempty"`
}

// Mode is how a pod is moved.
//
// +kubebuilder:validation:Enum=Live;Cold;PostCopy;Hybrid
type Mode string

// The modes.
const (
	// ModeLive copies memory in rounds while the pod runs.
	ModeLive Mode = "Live"
	// ModeCold freezes the pod first.
	ModeCold Mode = "Cold"
	// ModePostCopy lets the pod run at its destination before its memory is there, and fetches that
	// from the source meanwhile.
	ModePostCopy Mode = "PostCopy"
	// ModeHybrid is Live, but what is dirty when the rounds have ended is fetched as in PostCopy.
	ModeHybrid Mode = "Hybrid"
)

// Tracker finds dirty pages.
//
// +kubebuilder:validation:Enum=Auto;WriteProtect;SoftDirty;None
type Tracker string

// The trackers.
const (
	// TrackerAuto takes the first that the source node has.
	TrackerAuto Tracker = "Auto"
	// TrackerWriteProtect needs Linux 6.7; the pod never stops for it.
	TrackerWriteProtect Tracker = "WriteProtect"
	// TrackerSoftDirty needs a kernel with soft-dirty bits; each round stops the pod
	// for a moment.
	TrackerSoftDirty Tracker = "SoftDirty"
	// TrackerNone is stop-and-copy.
	TrackerNone Tracker = "None"
)

// Compression is how pages are compressed on the way.
//
// +kubebuilder:validation:Enum=Auto;None;LZ4;Zstd
type Compression string

// The compressions.
const (
	// CompressionAuto compresses with what gets a page across soonest.
	CompressionAuto Compression = "Auto"
	// CompressionNone sends pages as they are.
	CompressionNone Compression = "None"
	// CompressionLZ4 compresses fast.
	CompressionLZ4 Compression = "LZ4"
	// CompressionZstd compresses well.
	CompressionZstd Compression = "Zstd"
)

// PreCopy says when the rounds end; the first condition that holds does it.
type PreCopy struct {
	// Rule is what ends them; Default if it is not given.
	//
	// +optional
	Rule Rule `json:"rule,omitempty"`

	// DowntimeLimit is the predicted downtime that is short enough; 300ms if it is not given.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1ms')",message="downtimeLimit is a duration of 1ms or more, such as 300ms"
	DowntimeLimit *metav1.Duration `json:"downtimeLimit,omitempty"`

	// OnStall is what happens when they end although the downtime would be longer than the limit;
	// StopAndCopy if it is not given.
	//
	// +optional
	OnStall OnStall `json:"onStall,omitempty"`

	// MaxRounds is how many rounds follow the first full copy at most.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxRounds int32 `json:"maxRounds,omitempty"`

	// MaxDuration is how long the rounds may take in all.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) > duration('0s')",message="maxDuration is a positive duration, such as 10m"
	MaxDuration *metav1.Duration `json:"maxDuration,omitempty"`

	// DirtyLimit is how little must be dirty for the rounds to end, bytes.
	//
	// +optional
	DirtyLimit *resource.Quantity `json:"dirtyLimit,omitempty"`
}

// Rule names what ends the rounds.
//
// +kubebuilder:validation:Enum=Default;S0
type Rule string

// The rules.
const (
	// RuleDefault ends them when a further one would not make the predicted downtime shorter.
	RuleDefault Rule = "Default"
	// RuleS0 ends them by the dirty rate that is predicted for the next one.
	RuleS0 Rule = "S0"
)

// OnStall names what happens when the rounds end in vain.
//
// +kubebuilder:validation:Enum=StopAndCopy;Abort;Throttle;PostCopy
type OnStall string

// What happens then.
const (
	// OnStallStopAndCopy freezes the pod all the same.
	OnStallStopAndCopy OnStall = "StopAndCopy"
	// OnStallAbort breaks the migration off: the pod runs on where it is.
	OnStallAbort OnStall = "Abort"
	// OnStallThrottle lowers the processor quotas of the pod's containers, step by step, until
	// the rounds converge, and puts them back after that, or if the migration is broken off.
	OnStallThrottle OnStall = "Throttle"
	// OnStallPostCopy goes on as in mode Hybrid.
	OnStallPostCopy OnStall = "PostCopy"
)
