package criu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream/lazy"
)

// restoreLog is the name runc gives CRIU's log in the work directory.
const restoreLog = "restore.log"

// RestoreConfig says how a container's restore is held.
type RestoreConfig struct {
	// ID of the container.
	ID string
	// Config is the file that the container's ConfigAnnotation names.
	Config string
	// Work is where runc has CRIU work.
	Work string
	// Lazy leaves private memory to the fault server, which listens on
	// lazy.SocketName in Work.
	Lazy bool
	// Run runs a command to its end and kills it when its context ends.
	Run func(ctx context.Context, cmd *exec.Cmd) error
	// External are mounts that are not CRIU's, each by its name in the images and with the path of what is bound.
	External []External
	// Hooks: the container's specification has programs run when it is made.
	Hooks bool
	// OwnYard: nothing that runc and CRIU need for the container is below YardDir.
	OwnYard bool
}

// Restore is a restore that somebody else starts, by `runc restore`, and that
// is held twice: when all processes exist and none has run, and once more right
// before they run.
type Restore struct {
	config  RestoreConfig
	relay   *Relay
	closing sync.Once
}

// PrepareRestore sets the relay and the configuration for a coming restore, whose command needs RestoreEnvironment.
func PrepareRestore(ctx context.Context, cfg RestoreConfig) (*Restore, error) {
	files := config{path: cfg.Config}
	m, err := readConfigured()
	if err != nil {
		return nil, err
	}
	cfg.OwnYard = cfg.OwnYard && len(m.scripts) == 0 // they run where CRIU does
	// Where the yard is not its own, its log says which it was.
	relay, err := files.relay(traits{scripts: callsScripts(ctx, cfg.Run), quiet: cfg.OwnYard, hooks: cfg.Hooks}, PostRestore, PreResume)
	if err != nil {
		return nil, err
	}
	if err := files.write(relay, cfg.External, restoreConfig(cfg.Lazy)); err != nil {
		relay.Close()
		files.remove()
		return nil, err
	}
	return &Restore{config: cfg, relay: relay}, nil
}

// RestoreEnvironment changes that of the command that restores a container, by the file that its ConfigAnnotation names.
func RestoreEnvironment(env []string, file string) []string {
	return config{path: file}.environment(env)
}

// OwnYard says whether the command is to find YardDir empty, by HideYards: CRIU puts mounts together there, and nothing of that is left behind
// then, whatever becomes of it.
func (r *Restore) OwnYard() bool { return r.config.OwnYard }

// Held returns CRIU's pid when all processes of the container exist and wait. ctx
// must end, with a cause, when the restore has failed.
func (r *Restore) Held(ctx context.Context) (int, error) {
	return r.wait(ctx, PostRestore)
}

// Resuming returns when CRIU, which was let go on, is about to let the processes run:
// until the answer none has run, and after it none can be held back. ctx must end,
// with a cause, when the restore has failed.
func (r *Restore) Resuming(ctx context.Context) error {
	_, err := r.wait(ctx, PreResume)
	return err
}

func (r *Restore) wait(ctx context.Context, stage Stage) (int, error) {
	a, err := r.relay.Wait(ctx, stage)
	if err != nil {
		return 0, r.WithLog(fmt.Errorf("restore container %s: %w", r.config.ID, err))
	}
	return a.PID, nil
}

// Answer has CRIU go on from where it waits, or kill the held processes. Once it is
// Resuming, Stop would not stop it: kill it before the relay closes.
func (r *Restore) Answer(v Verdict) error { return r.relay.Answer(v) }

// WithLog adds CRIU's own account to an error.
func (r *Restore) WithLog(err error) error {
	return withLog(err, r.config.Work, restoreLog)
}

// KeepLog puts CRIU's log aside under a name that says which attempt it is of: the
// next one writes its own in its place.
func (r *Restore) KeepLog(attempt int) error {
	path := filepath.Join(r.config.Work, restoreLog)
	if err := os.Rename(path, fmt.Sprintf("%s.%d", path, attempt)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("keep CRIU's log: %w", err)
	}
	return nil
}

// rootsYard is where CRIU mounts what a container's processes see, before they do
// (criu/mount.c, mnt_roots).
var rootsYard = regexp.MustCompile(`/tmp/\.criu\.mntns\.[A-Za-z0-9]{6}`)

// ClearRoots removes the empty directory that a CRIU leaves which is killed before it lets
// the processes go. Only its log says which that is. With a yard of its own there is none.
func (r *Restore) ClearRoots() {
	log, err := os.ReadFile(filepath.Join(r.config.Work, restoreLog))
	if err != nil {
		return // it has not come that far
	}
	if yard := rootsYard.Find(log); yard != nil {
		_ = unix.Rmdir(string(yard)) // mostly gone already
	}
}

// Close removes relay and configuration, once. A restore still held is told to stop.
func (r *Restore) Close() {
	r.closing.Do(func() {
		r.relay.Close()
		config{path: r.config.Config}.remove()
		os.Remove(filepath.Join(r.config.Work, lazy.SocketName))
	})
}
