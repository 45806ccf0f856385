package kubernetes

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/events"
)

// maxRounds is how many rounds a status shows: the first ones and the last.
const maxRounds = 50

// apply writes into a status what an event of the daemon says. An event may be
// late: the phase never goes back for it. It returns an error that wraps
// ErrIllegalMove, and changes nothing, if the event's phase cannot follow.
func apply(s *v1alpha1.PodMigrationStatus, e *nodev1.Event, generation int64) error {
	phase := phaseOf(e.GetPhase())
	if !earlier(phase, s.Phase) {
		if err := movePhase(s.Phase, phase); err != nil {
			return err
		}
		s.Phase = phase
	}
	at := time.Unix(0, e.GetUnixNano())
	switch {
	case s.Phase.Committed() && s.CommitTime == nil:
		s.CommitTime = &metav1.Time{Time: at}
	case (s.Phase == v1alpha1.PhaseFailed || s.Phase == v1alpha1.PhaseCancelled) && s.CommitTime == nil:
		disagree(s, "BrokenOff", "nothing was committed", generation)
	}
	if e.GetMessage() != "" {
		s.Message = e.GetMessage()
	}
	applyProgress(s, e.GetProgress())
	if ip := e.GetDestination().GetPodIp(); ip != "" && s.DestinationPod != nil {
		s.DestinationPod.IP = ip
	}
	for i := range s.Containers {
		s.Containers[i].State = containerState(s.Phase, e.GetKind(), s.Containers[i].State)
	}
	for _, c := range conditionsOf(e) {
		c.ObservedGeneration = generation
		c.LastTransitionTime = metav1.NewTime(at)
		meta.SetStatusCondition(&s.Conditions, c)
	}
	applyResult(s, e.GetResult(), at)
	return nil
}

// conditionsOf are the conditions that an event settles.
func conditionsOf(e *nodev1.Event) []metav1.Condition {
	condition := func(kind, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: e.GetMessage()}}
	}
	switch e.GetKind() {
	case "prepared":
		return condition(v1alpha1.ConditionPrepared, "TakenIn")
	case "created":
		return condition(v1alpha1.ConditionParked, "PodWaits")
	case "converged":
		return condition(v1alpha1.ConditionConverged, "RoundsEnded")
	case "committed":
		return condition(v1alpha1.ConditionCommitted, "Decided")
	case "resumed":
		return condition(v1alpha1.ConditionRestored, "Runs")
	}
	return nil
}

// containerState is where a container stands after an event of that kind.
func containerState(p v1alpha1.Phase, kind string, before v1alpha1.ContainerState) v1alpha1.ContainerState {
	switch {
	case p.Committed():
		return v1alpha1.ContainerMoved
	case p == v1alpha1.PhaseFailed, p == v1alpha1.PhaseCancelled:
		return v1alpha1.ContainerRunning
	case kind == "freezing", before == v1alpha1.ContainerFrozen:
		return v1alpha1.ContainerFrozen
	case p == v1alpha1.PhaseMigrating:
		return v1alpha1.ContainerCopying
	}
	return v1alpha1.ContainerRunning
}

func applyProgress(s *v1alpha1.PodMigrationStatus, p *nodev1.Progress) {
	if p == nil {
		return
	}
	s.MemoryBytes = int64(p.GetMemoryBytes())
	s.BytesSent = int64(p.GetWireBytesSent())
	s.MissingPages = int64(p.GetMissingPages())
	s.Rate, s.DirtyRate = int64(p.GetRate()), int64(p.GetDirtyRate())
	if us := p.GetPredictedDowntimeUs(); us > 0 {
		predicted := microseconds(us)
		s.PredictedDowntime = &predicted
	}
	s.Throttle = events.Throttle(p).String()
	if p.GetCompression() != "" {
		s.Compression = p.GetCompression()
	}
	if p.GetStopReason() != "" {
		s.StopReason = p.GetStopReason()
	}
	s.Rounds = s.Rounds[:0]
	all := p.GetRounds()
	for i, r := range all {
		if len(all) > maxRounds && i >= maxRounds/2 && i < len(all)-maxRounds/2 {
			continue
		}
		s.Rounds = append(s.Rounds, v1alpha1.Round{
			Number:     int32(r.GetNumber()),
			DirtyPages: int64(r.GetDirtyPages()),
			Bytes:      int64(r.GetBytes()),
			WireBytes:  int64(r.GetWireBytes()),
			Duration:   microseconds(r.GetDurationUs()),
			Stood:      microseconds(r.GetStoodUs()),
		})
	}
}

func applyResult(s *v1alpha1.PodMigrationStatus, r *nodev1.Result, at time.Time) {
	if r == nil {
		return
	}
	s.Engine, s.EngineReason = r.GetEngine(), r.GetEngineReason()
	if s.CompletionTime == nil {
		s.CompletionTime = &metav1.Time{Time: at}
	}
	total := microseconds(r.GetTotalUs())
	s.Total = &total
	if d := r.GetDowntime(); d != nil {
		downtime := microseconds(d.GetMeasuredUs())
		s.Downtime = &downtime
		s.Stages = stagesOf(d)
	}
	s.MemoryBytes = int64(events.Memory(r))
	switch {
	case r.GetError() != "":
		s.Message = r.GetError()
	case r.GetSucceeded():
		s.Message = events.Summary(r)
	}
}

// stagesOf are the stages of a cutover.
func stagesOf(d *nodev1.Downtime) []v1alpha1.Stage {
	var stages []v1alpha1.Stage
	for _, s := range d.GetStages() {
		begin := metav1.Duration{Duration: time.Duration(s.GetBeginUs()) * time.Microsecond}
		stages = append(stages, v1alpha1.Stage{Name: s.GetName(), Begin: begin, Duration: microseconds(s.GetDurationUs())})
	}
	return stages
}

func microseconds(us uint64) metav1.Duration {
	return metav1.Duration{Duration: time.Duration(us) * time.Microsecond}
}
