package v1alpha1

// Names that Godwit gives and reads on objects.
const (
	// AnnotationMigration, on a pod, is the id of the migration that restores it:
	// what the shim sees. It is taken off when the migration is committed.
	AnnotationMigration = "godwit.dev/migration"
	// AnnotationMovedBy, on a pod, is the PodMigration by which it came.
	AnnotationMovedBy = "godwit.dev/moved-by"
	// AnnotationOrigin, on a bare pod that has moved, is the name that it had
	// before its first move.
	AnnotationOrigin = "godwit.dev/origin"
	// AnnotationHostPathShared, on a pod, set to "true", says that its hostPath and
	// local volumes are the same storage on every node.
	AnnotationHostPathShared = "godwit.dev/hostpath-shared"
	// AnnotationReleased, on a source pod that was taken out of its owner's
	// selection, holds the labels and the owner that it had, as JSON.
	AnnotationReleased = "godwit.dev/released"
	// LabelMigrateOnDrain, on a pod, set to "true", has an eviction move the pod
	// instead of killing it.
	LabelMigrateOnDrain = "godwit.dev/migrate-on-drain"
	// LabelDrain, on a PodMigration, says that an eviction asked for it: of the pod
	// with this UID.
	LabelDrain = "godwit.dev/drain"
	// AnnotationDrainNode, on such a PodMigration, is the node that the pod was on.
	AnnotationDrainNode = "godwit.dev/drain-node"
	// AnnotationDrainOnFailure, on a pod with LabelMigrateOnDrain, set to
	// DrainOnFailureEvict, has the pod evicted if it could not be moved. Without it
	// the pod stays where it is.
	AnnotationDrainOnFailure = "godwit.dev/drain-on-failure"
	// DrainOnFailureEvict is AnnotationDrainOnFailure's one value.
	DrainOnFailureEvict = "Evict"
	// Finalizer keeps a PodMigration until nothing of its migration is left to do.
	Finalizer = "godwit.dev/migration"
	// RuntimeClass is the class of pods that can be moved.
	RuntimeClass = "godwit"
	// WebhookConfiguration is the object by which WebhookClaim is called.
	WebhookConfiguration = "godwit"
	// WebhookClaim is the webhook that makes an owner's pod a migration's destination.
	WebhookClaim = "claim.godwit.dev"
	// SignerPeer is the signer of the certificates by which nodes know each other.
	SignerPeer = "godwit.dev/peer"
	// NodeServiceAccount is whom the node daemons are to the API server.
	NodeServiceAccount = "godwit-node"
)

// Condition types of a PodMigration.
const (
	// ConditionTakenUp: the node on which the pod runs has taken it up; false says
	// why none has.
	ConditionTakenUp = "TakenUp"
	// ConditionMovable: the preflight found nothing against the move.
	ConditionMovable = "Movable"
	// ConditionPrepared: the destination has store and images.
	ConditionPrepared = "Prepared"
	// ConditionParked: the destination's pod exists and waits for its memory.
	ConditionParked = "Parked"
	// ConditionConverged: the rounds have ended.
	ConditionConverged = "Converged"
	// ConditionAgreed: the cluster has agreed to the commit, which may have been made since: nobody but the
	// source's node ends the migration while it is true. False says why it is not any more: nothing was committed.
	ConditionAgreed = "Agreed"
	// ConditionCommitted: the destination owns the pod.
	ConditionCommitted = "Committed"
	// ConditionRestored: the pod runs on the destination.
	ConditionRestored = "Restored"
	// ConditionCleaned: nothing of the migration is left but this object.
	ConditionCleaned = "Cleaned"
)
