// Package install puts Godwit onto a node and takes it off again: the programs,
// containerd's drop-in, and, only if it is missing, the import of drop-ins in
// containerd's configuration. A record on the node says what was placed and
// what it was, so that Uninstall undoes exactly that; what somebody else has
// changed since is left and named. Both may be interrupted at any moment and
// run again. The daemon's own configuration and its start are the service
// manager's, or the DaemonSet's.
package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	// ErrForeign is wrapped where a file is in the way that Godwit did not place.
	ErrForeign = errors.New("not placed by Godwit")
	// ErrContainerd is wrapped where containerd is too old, or where its
	// configuration cannot take the runtime.
	ErrContainerd = errors.New("containerd cannot take the runtime")
	// ErrInUse is wrapped where pods or migrations still need what is installed.
	ErrInUse = errors.New("this node still needs Godwit")
)

// restartTimeout is how long containerd may take to answer after its restart.
const restartTimeout = 90 * time.Second

// Options say what is placed where. Every field but Root, Restart and Offline
// must be set.
type Options struct {
	// Root is put before every path; empty outside of tests.
	Root string
	// Source is the directory that the programs are taken from. Root is not put
	// before it.
	Source string
	// BinDir is where programs go: containerd must look for shims there.
	BinDir string
	// ConfigFile is containerd's configuration, DropInDir where drop-ins are.
	ConfigFile, DropInDir string
	// StateDir has the record, and everything that the daemon keeps on disk; RunDir
	// what it has in /run. Uninstall removes both.
	StateDir, RunDir string
	// Owner is on whose behalf this is: what several have installed stays until the
	// last of them uninstalls it.
	Owner string
	// Offline: containerd does not run here; this is an image in the making.
	Offline bool
}

// Programs that are placed; those after the first three only if Source has them.
var programs = []string{"containerd-shim-godwit-v2", "godwit-node", "godwitctl", "kubectl-godwit"}

const requiredPrograms = 3

// Installer installs and uninstalls.
type Installer struct {
	Options
	Containerd Containerd
	Log        *slog.Logger
}

// Containerd is what the installer asks of containerd and of who runs it.
type Containerd interface {
	// Version is that of the program, "2.1.9".
	Version(ctx context.Context) (string, error)
	// Dump is the configuration that the file makes, as the program reads it.
	Dump(ctx context.Context, configFile string) (map[string]any, error)
	// Handler says whether the running containerd has the runtime handler.
	Handler(ctx context.Context) (bool, error)
	// Clear removes what is left of pods of the runtime handler that have ended,
	// and names those that have not.
	Clear(ctx context.Context) (running []string, err error)
	// Restart restarts containerd.
	Restart(ctx context.Context) error
}

// Install brings the node to what the options say. It changes nothing that is as
// it should be, and restarts containerd only if its configuration changed.
func (i *Installer) Install(ctx context.Context) error {
	release, err := i.lock()
	if err != nil {
		return err
	}
	defer release()
	r, err := i.load()
	if err != nil {
		return err
	}
	plan, err := i.plan(ctx, r)
	if err != nil {
		return err
	}
	// From here on something of ours is on the node: the record comes first.
	if !slices.Contains(r.Owners, i.Owner) {
		r.Owners = append(r.Owners, i.Owner)
	}
	if err := i.save(r); err != nil {
		return err
	}
	for _, f := range plan.programs {
		if err := i.place(r, f); err != nil {
			return err
		}
	}
	if err := i.configure(ctx, r, plan); err != nil {
		return err
	}
	return i.restart(ctx, r, true)
}

// plan is what has to be, found out before anything is touched.
type plan struct {
	programs []file
	dropIn   file
	config   *edit          // nil if the configuration imports drop-ins already
	before   map[string]any // what containerd reads now
}

func (i *Installer) plan(ctx context.Context, r *record) (*plan, error) {
	if err := i.checkVersion(ctx); err != nil {
		return nil, err
	}
	p := new(plan)
	for n, name := range programs {
		source := filepath.Join(i.Source, name)
		if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) && n >= requiredPrograms {
			continue
		}
		f, err := fromSource(source, filepath.Join(i.BinDir, name))
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		p.programs = append(p.programs, f)
	}
	config, err := i.readConfig()
	if err != nil {
		return nil, err
	}
	if p.before, err = i.Containerd.Dump(ctx, i.ConfigFile); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrContainerd, i.ConfigFile, err)
	}
	if err := i.checkSearchPath(p.before); err != nil {
		return nil, err
	}
	p.dropIn = fromContent(filepath.Join(i.DropInDir, dropInName), []byte(dropIn(config.version)))
	if p.config, err = config.importing(filepath.Join(i.DropInDir, "*.toml"), p.dropIn.path); err != nil {
		return nil, err
	}
	for _, f := range append(slices.Clone(p.programs), p.dropIn) {
		if err := i.checkPlace(r, f); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// configure places the drop-in and has it imported, and takes both back if
// containerd would not read what it should.
func (i *Installer) configure(ctx context.Context, r *record, p *plan) error {
	if p.config == nil && i.holds(p.dropIn) {
		return nil
	}
	r.Restart, r.DropIn = !i.Offline, p.dropIn.path
	err := i.place(r, p.dropIn)
	if err == nil && p.config != nil {
		err = i.apply(r, p.config)
	}
	if err == nil {
		err = i.checkDump(ctx, p.before)
	}
	if err != nil {
		_, undone := i.unconfigure(r)
		r.Restart = false
		return errors.Join(err, undone, i.save(r))
	}
	i.Log.Info("containerd has the runtime in its configuration", "drop-in", p.dropIn.path, "imports added", p.config != nil)
	return nil
}

// restart restarts containerd if that is due, and waits until it has the
// handler, or has it no more.
func (i *Installer) restart(ctx context.Context, r *record, want bool) error {
	if i.Offline {
		return nil
	}
	if has, err := i.Containerd.Handler(ctx); err == nil && has == want && !r.Restart {
		return nil
	}
	i.Log.Info("restarting containerd; pods run on")
	if err := i.Containerd.Restart(ctx); err != nil {
		return fmt.Errorf("restart of containerd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	// It may answer once more before it goes: what counts is what it has.
	for {
		has, err := i.Containerd.Handler(ctx)
		if err == nil && has == want {
			break
		}
		if !wait(ctx, 100*time.Millisecond) {
			if err == nil {
				err = fmt.Errorf("runtime handler present: %v, want %v: does it read %s?", has, want, i.ConfigFile)
			}
			return fmt.Errorf("%w: after its restart: %w", ErrContainerd, err)
		}
	}
	r.Restart = false
	return i.save(r)
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lock keeps a second installer out.
func (i *Installer) lock() (release func(), err error) {
	dir := i.at(i.StateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another install or uninstall is under way: %w", err)
	}
	return func() { f.Close() }, nil
}

func (i *Installer) at(path string) string { return filepath.Join("/", i.Root, path) }
