package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PodMigration moves a running pod to another node: memory, processes and files.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=pmig,categories=all
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.podName`
// +kubebuilder:printcolumn:name="From",type=string,JSONPath=`.status.sourceNode`
// +kubebuilder:printcolumn:name="To",type=string,JSONPath=`.status.destinationNode`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Downtime",type=string,JSONPath=`.status.downtime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Engine",type=string,JSONPath=`.status.engine`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",message="a PodMigration's name has at most 63 characters"
type PodMigration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what was asked for. Only cancel may change.
	Spec PodMigrationSpec `json:"spec"`
	// Status is what has become of it.
	Status PodMigrationStatus `json:"status,omitempty"`
}

// PodMigrationList is a list of PodMigrations.
//
// +kubebuilder:object:root=true
type PodMigrationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []PodMigration `json:"items"`
}

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

// Phase is where a migration stands. It moves only downwards in this list; Failed
// and Cancelled follow from any phase before MigrationComplete.
//
// +kubebuilder:validation:Enum=Pending;Preparing;Started;Migrating;MigrationComplete;Succeeded;Failed;Cancelled
type Phase string

// The phases.
const (
	// PhasePending: accepted, nothing done; without a source node no node has
	// accepted it yet.
	PhasePending Phase = "Pending"
	// PhasePreparing: the destination gets images and makes room.
	PhasePreparing Phase = "Preparing"
	// PhaseStarted: the destination is ready, the source's shim is asked to begin.
	PhaseStarted Phase = "Started"
	// PhaseMigrating: memory and files are on their way; up to the commit.
	PhaseMigrating Phase = "Migrating"
	// PhaseMigrationComplete is the commit: the destination owns the pod.
	PhaseMigrationComplete Phase = "MigrationComplete"
	// PhaseSucceeded: the pod has all its memory there, and nothing is left of the source.
	PhaseSucceeded Phase = "Succeeded"
	// PhaseFailed: broken off by a failure; the source runs on.
	PhaseFailed Phase = "Failed"
	// PhaseCancelled: broken off on request; the source runs on.
	PhaseCancelled Phase = "Cancelled"
)

// Over says whether nothing more happens in the phase.
func (p Phase) Over() bool {
	return p == PhaseSucceeded || p == PhaseFailed || p == PhaseCancelled
}

// Untaken says whether no node has taken the migration up yet.
func (m *PodMigration) Untaken() bool {
	return m.Status.SourceNode == "" && !m.Status.Phase.Over()
}

// Committed says whether the destination owns the pod.
func (p Phase) Committed() bool { return p == PhaseMigrationComplete || p == PhaseSucceeded }

// AgreedSince is when the cluster agreed to the commit, nil if it has not, or does not any more.
func (m *PodMigration) AgreedSince() *metav1.Time {
	if c := meta.FindStatusCondition(m.Status.Conditions, ConditionAgreed); c != nil && c.Status == metav1.ConditionTrue {
		return &c.LastTransitionTime
	}
	return nil
}

// Agreed says whether the source may have committed: it has, or the cluster has agreed to it. Nobody but its
// node ends the migration then.
func (m *PodMigration) Agreed() bool { return m.Status.Phase.Committed() || m.AgreedSince() != nil }

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
