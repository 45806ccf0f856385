package nodecontroller

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/pagestream/precopy"
	"godwit.dev/godwit/pagestream/track"
)

// The modes of a migration.
const (
	modeLive = "live"
	modeCold = "cold"
	// In these pages are left at the source and fetched after the commit: those that are dirty
	// when the rounds have ended, or all.
	modeHybrid   = "hybrid"
	modePostCopy = "postcopy"
)

// leavesPages says whether a mode was asked for that leaves pages at the source.
func leavesPages(r *nodev1.MigrateRequest) bool { return leavingMode(r) != "" }

// leavingMode is what the shim is told of the mode.
func leavingMode(r *nodev1.MigrateRequest) string {
	if r.Mode == modeHybrid || r.Mode == modePostCopy {
		return r.Mode
	}
	return ""
}

// checkRequest says what is wrong with a request, and fills in what it leaves
// open. Its error wraps errdefs.ErrInvalidArgument.
func checkRequest(r *nodev1.MigrateRequest) error {
	if r.Compression == "" {
		r.Compression = "auto"
	}
	switch {
	case r.Pod == "" || r.To == "":
		return fmt.Errorf("a migration needs a pod and a node to go to: %w", errdefs.ErrInvalidArgument)
	case !slices.Contains([]string{"auto", "none", "lz4", "zstd"}, r.Compression):
		return fmt.Errorf("compression %q is none of auto, none, lz4, zstd: %w", r.Compression, errdefs.ErrInvalidArgument)
	}
	if r.LatePod && !r.Kubelet {
		return fmt.Errorf("only a pod that kubelet makes can come late: %w", errdefs.ErrInvalidArgument)
	}
	if r.Migration != "" && !migrationID.MatchString(r.Migration) {
		return fmt.Errorf("migration id %q: at most 63 of a to z, 0 to 9 and -, the first no -: %w", r.Migration, errdefs.ErrInvalidArgument)
	}
	rule, err := precopy.ParseRule(r.Rule)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	onStall, err := precopy.ParseOnStall(r.OnStall)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	r.Rule, r.OnStall = string(rule), string(onStall)
	asked, err := track.ParseEngine(r.Tracker)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	mode, tracker, err := agree(r.Mode, asked)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	r.Mode, r.Tracker = mode, tracker.String()
	if r.LatePod && (leavesPages(r) || onStall == precopy.PostCopy) {
		return fmt.Errorf("pages of a pod that comes late cannot be left here: it is gone from this node before the other one has it; "+
			"ask for mode live or cold: %w", errdefs.ErrInvalidArgument)
	}
	if r.CompareDump && (leavesPages(r) || onStall == precopy.PostCopy) {
		return fmt.Errorf("memory that is left here cannot be compared before the pod runs there: ask for mode live or cold: %w", errdefs.ErrInvalidArgument)
	}
	if r.ReconnectMs > maxReconnect {
		return fmt.Errorf("the nodes cannot be asked to wait for each other for more than an hour: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkTracker sees that a tracker that was asked for works on this node, before
// anything is done for the migration. The choice is the shim's, by the same rule.
// The error wraps errdefs.ErrFailedPrecondition.
func (d *Daemon) checkTracker(ctx context.Context, r *nodev1.MigrateRequest) error {
	asked, err := track.ParseEngine(r.Tracker)
	if err == nil {
		_, _, err = track.Choose(asked, d.features(ctx))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// agree makes one of mode and tracker, which say in part the same: cold is to
// move without a tracker, and None is to move cold.
func agree(mode string, tracker track.Engine) (string, track.Engine, error) {
	tracks := tracker == track.WriteProtect || tracker == track.SoftDirty
	switch {
	case mode == modePostCopy && tracks:
		return "", 0, fmt.Errorf("mode postcopy has no use for tracker %v: leave one of the two out", tracker)
	case mode == modeHybrid && tracker == track.None:
		return "", 0, fmt.Errorf("mode hybrid needs a tracker: ask for mode postcopy, or for another tracker")
	case mode == modePostCopy:
		return modePostCopy, track.None, nil
	case mode == modeHybrid:
		return modeHybrid, tracker, nil
	case mode == modeCold && tracks:
		return "", 0, fmt.Errorf("mode cold has no use for tracker %v: leave one of the two out", tracker)
	case mode == modeLive && tracker == track.None:
		return "", 0, fmt.Errorf("mode live needs a tracker: leave the mode out, or ask for mode cold, or for another tracker")
	case mode == modeCold, mode == "" && tracker == track.None:
		return modeCold, track.None, nil
	case mode == modeLive, mode == "":
		return modeLive, tracker, nil
	}
	return "", 0, fmt.Errorf("mode %q is none of %s, %s, %s and %s", mode, modeLive, modeCold, modeHybrid, modePostCopy)
}
