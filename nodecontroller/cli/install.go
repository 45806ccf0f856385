package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/inhost"
	"godwit.dev/godwit/nodecontroller/install"
)

// installFlags are those that install and uninstall have in common: what names
// the same places.
type installFlags struct {
	install.Options
	system install.System
}

func (f *installFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.ConfigFile, "containerd-config", "/etc/containerd/config.toml", "containerd's configuration")
	flags.StringVar(&f.system.Program, "containerd-program", "containerd", "containerd's program")
	flags.StringVar(&f.system.Socket, "containerd-socket", "/run/containerd/containerd.sock", "containerd's socket")
	flags.StringSliceVar(&f.system.RestartCommand, "restart-command", []string{"systemctl", "restart", "containerd"},
		"how containerd is restarted if its configuration changed: a program and its arguments, with commas between")
	flags.StringVar(&f.StateDir, "state-dir", "/var/lib/godwit", "where the record is, and what the daemon keeps")
	flags.StringVar(&f.Owner, "owner", "hand", "on whose behalf: what several installed stays until the last uninstalls it")
	flags.BoolVar(&f.Offline, "offline", false, "containerd does not run here, as in an image in the making")
}

func (f *installFlags) installer() (*install.Installer, error) {
	if len(f.system.RestartCommand) == 0 && !f.Offline {
		return nil, fmt.Errorf("--restart-command is empty: give one, or --offline")
	}
	f.RunDir = filepath.Dir(nodev1.Socket)
	return &install.Installer{
		Options: f.Options, Containerd: &f.system, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, nil
}

func newInstall() *cobra.Command {
	f := new(installFlags)
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Place the programs and containerd's drop-in on this node, and restart containerd if that changed it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := f.installer()
			if err != nil {
				return err
			}
			if i.Source == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("programs to install: %w", err)
				}
				i.Source = filepath.Dir(self)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return i.Install(ctx)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&f.Source, "source", "", "directory with the programs (default: where this program is)")
	cmd.Flags().StringVar(&f.BinDir, "bin-dir", "/usr/local/bin", "where the programs go")
	cmd.Flags().StringVar(&f.DropInDir, "drop-in-dir", "/etc/containerd/conf.d", "where containerd's drop-in goes")
	return cmd
}

func newUninstall() *cobra.Command {
	f := new(installFlags)
	var force bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo what install did on this node, and remove what the daemon left",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := f.installer()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			left, err := i.Uninstall(ctx, force)
			for _, file := range left {
				fmt.Fprintf(cmd.OutOrStdout(), "left, because it was changed since: %s\n", file)
			}
			return err
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "also while pods of the runtime run here, and migrations")
	return cmd
}

func newInHost() *cobra.Command {
	var program string
	cmd := &cobra.Command{
		Use:   "in-host [--program PATH] -- [ARG...]",
		Short: "From a privileged container with hostPID: go on as a program in the host's mount namespace",
		Long: `Becomes a program of the host, or with none named godwit-node again, in the mount namespace
of the host, with the given arguments; image: before a path in them makes it one of this container.`,
		RunE: func(_ *cobra.Command, args []string) error { return inhost.Exec(program, args) },
	}
	cmd.Flags().StringVar(&program, "program", "", "the program's absolute path on the host")
	return cmd
}
