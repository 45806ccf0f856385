package shim

import (
	"context"
	"fmt"
	"sync"

	"godwit.dev/godwit/pagestream/criuversion"
)

// installedCRIU is the CRIU that runc finds. A shim lives as long as its pod, and
// CRIU may be upgraded under it: each migration asks anew.
var installedCRIU criuInstalled

// criuInstalled remembers which CRIU is there.
type criuInstalled struct {
	mu      sync.Mutex           // guards version
	version *criuversion.Version // nil: to be asked
}

// get asks CRIU for its version, once.
func (c *criuInstalled) get(ctx context.Context) (criuversion.Version, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version != nil {
		return *c.version, nil
	}
	v, err := criuversion.Installed(ctx, runReaped)
	if err != nil {
		return v, fmt.Errorf("version of CRIU: %w", err)
	}
	c.version = &v
	return v, nil
}

// forget makes the next get ask again.
func (c *criuInstalled) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version = nil
}
