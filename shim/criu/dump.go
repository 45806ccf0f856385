package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/go-runc"
)

// noServer is where a lazy dump is told to serve its pages from. The pages
// travel by our own wire: the relay stops CRIU before it serves any, so no port
// is ever listened on for longer than that takes.
const noServer = "127.0.0.1:0"

// dumpLog is the name runc gives CRIU's log in the work directory.
const dumpLog = "dump.log"

// errEnded is the cause when runc is done before CRIU reached a stage.
var errEnded = errors.New("runc ended before CRIU got there")

// DumpConfig says what to dump, and where to.
type DumpConfig struct {
	// Runtime is runc as the container's shim uses it.
	Runtime *runc.Runc
	// ID of the container.
	ID string
	// Config is the file that the container's ConfigAnnotation names.
	Config string
	// Images is where CRIU's images go, on tmpfs.
	Images string
	// Work is a directory for logs; it must exist.
	Work string
	// Views are what CRIU is to see of the processes' memory.
	Views []*View
	// Features is a file that CRIU takes for its cache of kernel features, empty if that is its own; see Guardless.
	Features string
	// Showing is a command that calls ShowViews with all arguments before
	// "--" and executes what comes after it.
	Showing []string
	// External are mounts that are not CRIU's, each by its path and with a name for the images.
	External []External
	// Namespaces is what Showing is given first, so that CRIU works in namespaces of the container.
	Namespaces []string
	// Time is the time namespace in which CRIU works, empty if that is the caller's.
	Time string
	// PageServer is where CRIU sends all memory, host:port, as it would by itself. Empty: it sends none of what can be
	// restored lazily, and writes the rest into its images.
	PageServer string
	// Run runs a command to its end: a shim may wait for children only through
	// containerd's reaper. It kills the command when ctx ends.
	Run func(ctx context.Context, cmd *exec.Cmd) error
}

// command is `runc checkpoint` as go-runc would call it, below Showing.
func (c *DumpConfig) command() *exec.Cmd {
	args := append([]string{}, c.Showing[1:]...)
	args = append(args, c.Namespaces...)
	for _, v := range c.Views {
		source, target := v.Mount()
		args = append(args, source, target)
	}
	if c.Features != "" {
		args = append(args, c.Features, featureCache)
	}
	binary := c.Runtime.Command
	if binary == "" {
		binary = runc.DefaultCommand
	}
	args = append(args, "--", binary,
		"--root", c.Runtime.Root, "--log", filepath.Join(c.Work, "runc.log"))
	if c.Runtime.SystemdCgroup {
		args = append(args, "--systemd-cgroup")
	}
	args = append(args, "checkpoint", "--image-path", c.Images, "--work-path", c.Work)
	if c.PageServer == "" {
		args = append(args, "--lazy-pages", "--page-server", noServer, c.ID)
	} else {
		args = append(args, "--page-server", c.PageServer, c.ID)
	}
	cmd := exec.Command(c.Showing[0], args...)
	cmd.Env = append(c.files().environment(os.Environ()), EnvTime+"="+c.Time)
	cmd.Stderr = new(bytes.Buffer)
	return cmd
}

// files are those that its CRIU reads. One that dumps all memory by itself has its own, beside those of one that waits meanwhile.
func (c *DumpConfig) files() config {
	if c.PageServer != "" {
		return config{path: c.Config, variant: ".plain"}
	}
	return config{path: c.Config}
}

// Dump is a running dump of one container. Its stages in order: Ready, then
// the caller freezes, Release, Images; then either Commit or Abort.
type Dump struct {
	config DumpConfig
	relay  *Relay
	// pid of CRIU, once it has arrived at a stage.
	pid int
	// ended is done, with a cause, when runc has ended.
	ended context.Context
	// finish ends the dump by force.
	finish context.CancelFunc
}

// StartDump starts a dump of a running container. Nothing stops before Release.
// It always has to be ended by Commit or Abort, also after an error.
func StartDump(ctx context.Context, cfg DumpConfig) (*Dump, error) {
	files := cfg.files()
	relay, err := files.relay(traits{scripts: callsScripts(ctx, cfg.Run), quiet: true}, PreDump, PostDump)
	if err != nil {
		return nil, err
	}
	if err := files.write(relay, cfg.External, dumpConfig()); err != nil {
		relay.Close()
		files.remove()
		return nil, err
	}
	ended, end := context.WithCancelCause(context.Background())
	running, finish := context.WithCancel(context.WithoutCancel(ctx))
	d := &Dump{config: cfg, relay: relay, ended: ended, finish: finish}
	go func() {
		cmd := cfg.command()
		err := cfg.Run(running, cmd)
		if err == nil {
			err = errEnded
		} else if said := strings.TrimSpace(cmd.Stderr.(*bytes.Buffer).String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		end(err)
	}()
	return d, nil
}

// await waits for CRIU at a stage, or for the end of runc or of ctx.
func (d *Dump) await(ctx context.Context, stage Stage) error {
	both, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(d.ended, func() { cancel(context.Cause(d.ended)) })
	defer stop()
	a, err := d.relay.Wait(both, stage)
	if err != nil {
		return withLog(fmt.Errorf("dump container %s: %w", d.config.ID, err), d.config.Work, dumpLog)
	}
	d.pid = a.PID
	return nil
}

// Ready returns when CRIU has started and waits to begin.
func (d *Dump) Ready(ctx context.Context) error { return d.await(ctx, PreDump) }

// Release lets CRIU begin; the container must be frozen.
func (d *Dump) Release() error { return d.relay.Answer(Go) }

// Images returns when CRIU's images are complete.
func (d *Dump) Images(ctx context.Context) error { return d.await(ctx, PostDump) }

// Commit ends CRIU without letting it touch the processes again; the caller has
// killed them.
func (d *Dump) Commit() {
	d.kill()
	d.end()
}

// Abort makes CRIU let go of the processes and returns when it has: they are
// then as they were before, frozen if their cgroup is. ctx bounds how long
// CRIU may take before it is killed, which sets the processes free as well.
func (d *Dump) Abort(ctx context.Context) error {
	err := d.relay.Answer(Stop)
	select {
	case <-d.ended.Done():
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("dump of container %s: CRIU did not let go and was killed", d.config.ID))
		d.kill()
	}
	d.end()
	return errors.Join(err, d.forgetCheckpoint())
}

// end waits until runc is gone and removes the relay.
func (d *Dump) end() {
	d.finish()
	<-d.ended.Done()
	d.relay.Close()
	d.config.files().remove()
}

func (d *Dump) kill() {
	if d.pid > 0 {
		// The process waits for our verdict, so the pid is still its own.
		syscall.Kill(d.pid, syscall.SIGKILL)
	}
}

// forgetCheckpoint removes the mark by which runc takes a dumped container for
// gone (runc: libcontainer/criu_linux.go, criuNotifications "post-dump").
func (d *Dump) forgetCheckpoint() error {
	err := os.Remove(filepath.Join(d.config.Runtime.Root, d.config.ID, "checkpoint"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove runc's checkpoint mark: %w", err)
	}
	return nil
}
