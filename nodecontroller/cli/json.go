package cli

import (
	"encoding/json"
	"io"
	"time"

	"godwit.dev/godwit/nodecontroller"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/events"
)

// PrintJSON writes one value on a line of its own.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// The JSON that godwitctl prints. Names and units are an interface: times are
// RFC 3339, durations are in the unit of the name's ending, sizes are in bytes.

type jsonEvent struct {
	Event     string           `json:"event"` // the kind; "result" for the last line
	Migration string           `json:"migration"`
	Time      string           `json:"time"`
	Phase     string           `json:"phase"`
	Message   string           `json:"message,omitempty"`
	Progress  *jsonProgress    `json:"progress,omitempty"`
	To        *jsonDestination `json:"destination,omitempty"`
}

type jsonDestination struct {
	Node    string `json:"node"`
	Sandbox string `json:"sandbox"`
	PodIP   string `json:"pod_ip"`
}

type jsonRound struct {
	Number     uint32  `json:"number"`
	DirtyPages uint64  `json:"dirty_pages"`
	Bytes      uint64  `json:"bytes"`
	WireBytes  uint64  `json:"wire_bytes"`
	DurationMS float64 `json:"duration_ms"`
	ScanMS     float64 `json:"scan_ms"`
	StoodMS    float64 `json:"stood_ms"`
	LeftPages  uint64  `json:"left_pages"`
	// What was expected at its end, and by what was decided whether another follows.
	PredictedDowntimeMS float64 `json:"predicted_downtime_ms"`
	PredictedLastBytes  uint64  `json:"predicted_last_bytes"`
	DirtyRateBPS        uint64  `json:"dirty_rate_bytes_per_s"`
	RateCorrectionBPS   int64   `json:"rate_correction_bytes_per_s,omitempty"`
	PredictedDirtyRate  uint64  `json:"predicted_dirty_rate_bytes_per_s,omitempty"`
	PredictedDirtyBytes uint64  `json:"predicted_dirty_bytes,omitempty"`
	DirtyLimit          uint64  `json:"dirty_limit"`
	ElapsedMS           float64 `json:"elapsed_ms"`
	// What the pod may use from its end on, of what it might; none if it is not held back.
	ThrottleMilliCPU   uint32 `json:"throttle_milli_cpu,omitempty"`
	ThrottleOfMilliCPU uint32 `json:"throttle_of_milli_cpu,omitempty"`
}

type jsonProgress struct {
	Round               uint32      `json:"round"`
	RoundPages          uint64      `json:"round_pages"`
	RoundPagesDone      uint64      `json:"round_pages_done"`
	PagesSent           uint64      `json:"pages_sent"`
	ZeroPages           uint64      `json:"zero_pages"`
	UnchangedPages      uint64      `json:"unchanged_pages,omitempty"`
	DeltaPages          uint64      `json:"delta_pages,omitempty"`
	DeltaBytes          uint64      `json:"delta_bytes,omitempty"`
	Compression         string      `json:"compression,omitempty"`
	BytesSent           uint64      `json:"bytes_sent"`
	WireBytesSent       uint64      `json:"wire_bytes_sent"`
	FileBytesSent       uint64      `json:"file_bytes_sent"`
	RateBPS             uint64      `json:"rate_bytes_per_s"`
	DirtyRateBPS        uint64      `json:"dirty_rate_bytes_per_s"`
	ETAMS               uint64      `json:"eta_ms"`
	MemoryBytes         uint64      `json:"memory_bytes"`
	StopReason          string      `json:"stop_reason,omitempty"`
	Rule                string      `json:"rule,omitempty"`
	PredictedDowntimeMS float64     `json:"predicted_downtime_ms,omitempty"`
	DowntimeLimitMS     float64     `json:"downtime_limit_ms,omitempty"`
	LeftBytes           uint64      `json:"left_bytes,omitempty"`
	ThrottleMilliCPU    uint32      `json:"throttle_milli_cpu,omitempty"`
	ThrottleOfMilliCPU  uint32      `json:"throttle_of_milli_cpu,omitempty"`
	Fetching            bool        `json:"fetching,omitempty"`
	MissingPages        uint64      `json:"missing_pages,omitempty"`
	RemoteFaults        uint64      `json:"remote_faults,omitempty"`
	FetchETAMS          uint64      `json:"fetch_eta_ms,omitempty"`
	Rounds              []jsonRound `json:"rounds,omitempty"`
}

// jsonDowntime is the frozen window as the nodes see it.
type jsonDowntime struct {
	FreezeMS  float64 `json:"freeze_ms"`
	DumpMS    float64 `json:"dump_ms"`
	PagesMS   float64 `json:"pages_ms"`
	FilesMS   float64 `json:"files_ms"`
	CutoverMS float64 `json:"cutover_ms"`
	SealMS    float64 `json:"seal_ms"`
	RestoreMS float64 `json:"restore_ms"`
	CommitMS  float64 `json:"commit_ms"`
	ResumeMS  float64 `json:"resume_ms"`
	// Freeze to resume by the two nodes' clocks.
	ClocksMS float64     `json:"clocks_ms"`
	Stages   []jsonStage `json:"stages,omitempty"`
}

// jsonStage is a stage of the cutover, BeginMS after the freeze.
type jsonStage struct {
	Name       string  `json:"name"`
	BeginMS    float64 `json:"begin_ms"`
	DurationMS float64 `json:"duration_ms"`
}

type jsonResult struct {
	Event        string           `json:"event"` // "result"
	Migration    string           `json:"migration"`
	Succeeded    bool             `json:"succeeded"`
	Phase        string           `json:"phase"`
	Error        string           `json:"error,omitempty"`
	Pod          string           `json:"pod"`
	Mode         string           `json:"mode"`
	From         string           `json:"from"`
	To           *jsonDestination `json:"destination,omitempty"`
	Engine       string           `json:"engine,omitempty"`
	EngineReason string           `json:"engine_reason,omitempty"`
	MemoryBytes  uint64           `json:"memory_bytes"`
	Rounds       []jsonRound      `json:"rounds"`
	StopReason   string           `json:"stop_reason,omitempty"`
	Rule         string           `json:"rule,omitempty"`
	// PredictedDowntimeMS is what was predicted last before the freeze.
	PredictedDowntimeMS float64 `json:"predicted_downtime_ms,omitempty"`
	PagesSent           uint64  `json:"pages_sent"`
	ZeroPages           uint64  `json:"zero_pages"`
	UnchangedPages      uint64  `json:"unchanged_pages,omitempty"`
	DeltaPages          uint64  `json:"delta_pages,omitempty"`
	DeltaBytes          uint64  `json:"delta_bytes,omitempty"`
	// Compression is what the last pages were compressed with and why.
	Compression   string `json:"compression,omitempty"`
	BytesSent     uint64 `json:"bytes_sent"`
	WireBytesSent uint64 `json:"wire_bytes_sent"`
	FileBytesSent uint64 `json:"file_bytes_sent"`
	FinalPages    uint64 `json:"final_pages"`
	FinalBytes    uint64 `json:"final_bytes"`
	ImageBytes    uint64 `json:"image_bytes"`
	// LeftPages were left at the source, RemoteFaults waited for some of them. Lost: they could
	// not be fetched, or the destination lost the pod.
	LeftPages    uint64 `json:"left_pages,omitempty"`
	RemoteFaults uint64 `json:"remote_faults,omitempty"`
	Lost         bool   `json:"lost,omitempty"`
	// ComparedPages were compared with CRIU's own dump, and found equal.
	ComparedPages uint64  `json:"compared_pages,omitempty"`
	TotalMS       float64 `json:"total_ms"`
	// DowntimeMS is freeze to the destination's answer, by the source's clock.
	DowntimeMS float64       `json:"downtime_ms"`
	Downtime   *jsonDowntime `json:"downtime,omitempty"`
}

func ms(us uint64) float64 { return float64(us) / 1000 }

func stamp(unixNano int64) string {
	if unixNano == 0 {
		return ""
	}
	return time.Unix(0, unixNano).Format(time.RFC3339Nano)
}

func eventJSON(e *nodev1.Event) jsonEvent {
	return jsonEvent{
		Event:     e.Kind,
		Migration: e.Migration,
		Time:      stamp(e.UnixNano),
		Phase:     nodecontroller.PhaseName(e.Phase),
		Message:   e.Message,
		Progress:  progressJSON(e.Progress),
		To:        destinationJSON(e.Destination),
	}
}

func destinationJSON(d *nodev1.Destination) *jsonDestination {
	if d == nil {
		return nil
	}
	return &jsonDestination{Node: d.Node, Sandbox: d.Sandbox, PodIP: d.PodIp}
}

func progressJSON(p *nodev1.Progress) *jsonProgress {
	if p == nil {
		return nil
	}
	return &jsonProgress{
		Round:               p.Round,
		RoundPages:          p.RoundPages,
		RoundPagesDone:      p.RoundPagesDone,
		PagesSent:           p.PagesSent,
		ZeroPages:           p.ZeroPages,
		UnchangedPages:      p.UnchangedPages,
		DeltaPages:          p.DeltaPages,
		DeltaBytes:          p.DeltaBytes,
		Compression:         p.Compression,
		BytesSent:           p.BytesSent,
		WireBytesSent:       p.WireBytesSent,
		FileBytesSent:       p.FileBytesSent,
		RateBPS:             p.Rate,
		DirtyRateBPS:        p.DirtyRate,
		ETAMS:               p.EtaMs,
		MemoryBytes:         p.MemoryBytes,
		StopReason:          p.StopReason,
		Rule:                p.Rule,
		PredictedDowntimeMS: ms(p.PredictedDowntimeUs),
		DowntimeLimitMS:     ms(p.DowntimeLimitUs),
		LeftBytes:           p.LeftBytes,
		ThrottleMilliCPU:    p.ThrottleMilliCpu,
		ThrottleOfMilliCPU:  p.ThrottleOfMilliCpu,
		Fetching:            p.Fetching,
		MissingPages:        p.MissingPages,
		RemoteFaults:        p.RemoteFaults,
		FetchETAMS:          p.FetchEtaMs,
		Rounds:              roundsJSON(p.Rounds),
	}
}

func roundsJSON(rounds []*nodev1.Round) []jsonRound {
	list := make([]jsonRound, 0, len(rounds))
	for _, r := range rounds {
		list = append(list, jsonRound{
			Number:              r.Number,
			DirtyPages:          r.DirtyPages,
			Bytes:               r.Bytes,
			WireBytes:           r.WireBytes,
			DurationMS:          ms(r.DurationUs),
			ScanMS:              ms(r.ScanUs),
			StoodMS:             ms(r.StoodUs),
			LeftPages:           r.LeftPages,
			PredictedDowntimeMS: ms(r.PredictedDowntimeUs),
			PredictedLastBytes:  r.PredictedLastBytes,
			DirtyRateBPS:        r.DirtyRate,
			RateCorrectionBPS:   r.RateCorrection,
			PredictedDirtyRate:  r.PredictedDirtyRate,
			PredictedDirtyBytes: r.PredictedDirtyBytes,
			DirtyLimit:          r.DirtyLimit,
			ElapsedMS:           ms(r.ElapsedUs),
			ThrottleMilliCPU:    r.ThrottleMilliCpu,
			ThrottleOfMilliCPU:  r.ThrottleOfMilliCpu,
		})
	}
	return list
}

func resultJSON(migration string, phase nodev1.Phase, r *nodev1.Result) jsonResult {
	j := jsonResult{
		Event:               "result",
		Migration:           migration,
		Succeeded:           r.Succeeded,
		Phase:               nodecontroller.PhaseName(phase),
		Error:               r.Error,
		Pod:                 r.Pod,
		Mode:                r.Mode,
		From:                r.From,
		To:                  destinationJSON(r.Destination),
		Engine:              r.Engine,
		EngineReason:        r.EngineReason,
		MemoryBytes:         events.Memory(r),
		Rounds:              roundsJSON(r.Totals.GetRounds()),
		StopReason:          r.Totals.GetStopReason(),
		Rule:                r.Totals.GetRule(),
		PredictedDowntimeMS: ms(r.Totals.GetPredictedDowntimeUs()),
		PagesSent:           r.Totals.GetPagesSent(),
		ZeroPages:           r.Totals.GetZeroPages(),
		UnchangedPages:      r.Totals.GetUnchangedPages(),
		DeltaPages:          r.Totals.GetDeltaPages(),
		DeltaBytes:          r.Totals.GetDeltaBytes(),
		Compression:         r.Totals.GetCompression(),
		BytesSent:           r.Totals.GetBytesSent(),
		WireBytesSent:       r.Totals.GetWireBytesSent(),
		FileBytesSent:       r.Totals.GetFileBytesSent(),
		FinalPages:          r.FinalPages,
		FinalBytes:          r.FinalBytes,
		ImageBytes:          r.ImageBytes,
		LeftPages:           r.LeftPages,
		RemoteFaults:        r.Totals.GetRemoteFaults(),
		Lost:                r.Lost,
		ComparedPages:       r.ComparedPages,
		TotalMS:             ms(r.TotalUs),
		DowntimeMS:          ms(r.Downtime.GetMeasuredUs()),
	}
	if d := r.Downtime; d != nil {
		j.Downtime = &jsonDowntime{
			FreezeMS:  ms(d.FreezeUs),
			DumpMS:    ms(d.DumpUs),
			PagesMS:   ms(d.PagesUs),
			FilesMS:   ms(d.FilesUs),
			CutoverMS: ms(d.CutoverUs),
			SealMS:    ms(d.SealUs),
			RestoreMS: ms(d.RestoreUs),
			CommitMS:  ms(d.CommitUs),
			ResumeMS:  ms(d.ResumeUs),
			ClocksMS:  float64(d.ClocksUs) / 1000,
		}
		for _, s := range d.Stages {
			j.Downtime.Stages = append(j.Downtime.Stages, jsonStage{s.Name, float64(s.BeginUs) / 1000, ms(s.DurationUs)})
		}
	}
	return j
}
