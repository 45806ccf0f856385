package criu

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"godwit.dev/godwit/pagestream/criuversion"
	"godwit.dev/godwit/pagestream/lazy"
)

// restoreLog is the name runc gives CRIU's log in the work directory.
const restoreLog = "restore.log"

// RestoreConfig says how a container's restore is held.
type RestoreConfig struct {
	// ID of the container.
	ID string
	// Version of the CRIU that runc will start.
	Version criuversion.Version
	// Config is the file that the container's ConfigAnnotation names.
	Config string
	// Gate is an existing directory for the gate.
	Gate string
	// Work is where runc has CRIU work.
	Work string
	// Lazy leaves private memory to the fault server, which listens on
	// lazy.SocketName in Work.
	Lazy bool
}

// Restore is a restore that somebody else starts, by `runc restore`, and that
// is held when all processes exist and none has run.
type Restore struct {
	config  RestoreConfig
	gate    *Gate
	closing sync.Once
}

// PrepareRestore sets the gate and the configuration for a coming restore.
func PrepareRestore(config RestoreConfig) (*Restore, error) {
	gate, err := NewGate(config.Gate, PostRestore)
	if err != nil {
		return nil, err
	}
	if err := writeConfig(config.Config, restoreConfig(gate.Script(), config.Version, config.Lazy)); err != nil {
		gate.Close()
		return nil, err
	}
	return &Restore{config: config, gate: gate}, nil
}

// Held returns when all processes of the container exist and wait. ctx must
// end, with a cause, when the restore has failed.
func (r *Restore) Held(ctx context.Context) error {
	_, err := r.gate.Wait(ctx, PostRestore)
	if err != nil {
		return r.WithLog(fmt.Errorf("restore container %s: %w", r.config.ID, err))
	}
	return nil
}

// Answer lets the held processes run, or has CRIU kill them.
func (r *Restore) Answer(v Verdict) error { return r.gate.Answer(v) }

// WithLog adds CRIU's own account to an error.
func (r *Restore) WithLog(err error) error {
	return withLog(err, r.config.Work, restoreLog)
}

// Close removes gate and configuration, once. A restore still held is told to stop.
func (r *Restore) Close() {
	r.closing.Do(func() {
		r.gate.Close()
		os.Remove(r.config.Config)
		os.Remove(filepath.Join(r.config.Work, lazy.SocketName))
	})
}
