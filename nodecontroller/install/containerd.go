package install

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"godwit.dev/godwit/cri"
)

// System is the containerd of the machine that this process runs on.
type System struct {
	// Program is containerd, to be found in PATH unless it is a path.
	Program string
	// Socket is where the running one listens.
	Socket string
	// RestartCommand restarts it.
	RestartCommand []string
}

// Version asks the program, which is what runs after a restart.
func (s *System) Version(ctx context.Context) (string, error) {
	out, err := run(ctx, s.Program, "--version")
	if err != nil {
		return "", err
	}
	// containerd github.com/containerd/containerd/v2 2.1.9 COMMIT
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return "", fmt.Errorf("%s --version says %q", s.Program, out)
	}
	return fields[2], nil
}

// Dump is `containerd config dump`.
func (s *System) Dump(ctx context.Context, configFile string) (map[string]any, error) {
	out, err := run(ctx, s.Program, "--config", configFile, "config", "dump")
	if err != nil {
		return nil, err
	}
	dump := map[string]any{}
	if err := toml.Unmarshal(out, &dump); err != nil {
		return nil, fmt.Errorf("%s config dump: %w", s.Program, err)
	}
	return dump, nil
}

// Handler asks CRI's status.
func (s *System) Handler(ctx context.Context) (bool, error) {
	c, err := cri.Dial(s.Socket)
	if err != nil {
		return false, err
	}
	defer c.Close()
	all, err := c.Runtimes(ctx)
	if err != nil {
		return false, err
	}
	_, ok := all[cri.Handler]
	return ok, nil
}

// Clear does what kubelet does within a minute or two: a sandbox that was stopped
// is removed. Without its runtime it could not be.
func (s *System) Clear(ctx context.Context) (running []string, err error) {
	c, err := cri.Dial(s.Socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	pods, err := c.Pods(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		switch {
		case p.Handler != cri.Handler:
		case p.Ready:
			running = append(running, p.FullName())
		default:
			if err := c.Remove(ctx, p.ID); err != nil {
				return nil, fmt.Errorf("what is left of pod %s: %w", p.FullName(), err)
			}
		}
	}
	return running, nil
}

// Restart runs the command.
func (s *System) Restart(ctx context.Context) error {
	_, err := run(ctx, s.RestartCommand[0], s.RestartCommand[1:]...)
	return err
}

func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out.Bytes(), nil
}
