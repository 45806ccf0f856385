package shim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// mode says what is left at the source when the pod is cut over.
type mode string

const (
	// modeComplete: nothing; the destination has everything before it runs the pod.
	modeComplete mode = ""
	// modeHybrid: what is dirty after the rounds.
	modeHybrid mode = "hybrid"
	// modePostCopy: all memory that CRIU does not write; there are no rounds.
	modePostCopy mode = "postcopy"
)

// defaultReconnect is how long source and destination wait for each other while pages are
// missing.
const defaultReconnect = 2 * time.Minute

var errUnknownMode = errors.New("unknown mode")

// parseMode reads a mode in any case.
func parseMode(name string) (mode, error) {
	for _, m := range []mode{modeComplete, modeHybrid, modePostCopy} {
		if strings.EqualFold(name, string(m)) {
			return m, nil
		}
	}
	return "", fmt.Errorf("%w %q: use hybrid or postcopy, or leave it out", errUnknownMode, name)
}

// mayLeave says whether a policy may come to leave pages at the source.
func mayLeave(p *shimv1.Policy) (bool, error) {
	m, err := parseMode(p.GetMode())
	if err != nil {
		return false, err
	}
	onStall, err := precopy.ParseOnStall(p.GetOnStall())
	return m != modeComplete || onStall == precopy.PostCopy, err
}

// reconnectOf is how long to wait, as a message says it.
func reconnectOf(ms uint64) time.Duration {
	if ms == 0 {
		return defaultReconnect
	}
	return time.Duration(ms) * time.Millisecond
}
