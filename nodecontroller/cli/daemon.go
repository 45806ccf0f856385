package cli

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/footprint"
	"godwit.dev/godwit/nodecontroller/identity"
	"godwit.dev/godwit/nodecontroller/inhost"
	"godwit.dev/godwit/nodecontroller/kubernetes"
	"godwit.dev/godwit/timerslack"
)

// Daemon is the command godwit-node.
func Daemon() *cobra.Command {
	var config string
	var debug bool
	cmd := &cobra.Command{
		Use:              "godwit-node",
		PersistentPreRun: func(*cobra.Command, []string) { inhost.Keep() },
		Short:            "The node daemon: moves pods of this node to its peers, and takes theirs in",
		Args:             cobra.NoArgs,
		Version:          nodecontroller.Version,
		SilenceUsage:     true,
		SilenceErrors:    true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if debug {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if err := timerslack.Widen(oversleep); err != nil {
				log.Warn("the daemon's runtime takes more of the processors than it need while pods stand still", "error", err)
			}
			// The configuration is read again whenever it changed; SIGHUP asks for
			// nothing more, and must not end the daemon.
			signal.Ignore(syscall.SIGHUP)
			stopKeeping, err := keepIdentity(ctx, config, log)
			if err != nil {
				return err
			}
			defer stopKeeping()
			d, err := nodecontroller.New(config, log)
			if err != nil {
				return err
			}
			keeping, stopKeepingSmall := context.WithCancel(ctx)
			var keeper sync.WaitGroup
			keeper.Go(func() { footprint.Keep(keeping, d.Idle, log) })
			defer keeper.Wait()
			defer stopKeepingSmall()
			return run(ctx, d, log)
		},
	}
	cmd.Flags().StringVar(&config, "config", nodecontroller.ConfigFile, "configuration file, TOML")
	cmd.Flags().BoolVar(&debug, "debug", false, "log more")
	cmd.AddCommand(newInstall(), newUninstall(), newInHost(), &cobra.Command{
		Use:    nodecontroller.StartCommand + " SOCKET CONTAINER",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			return nodecontroller.RunStart(context.Background(), args[0], args[1])
		},
	})
	return cmd
}

// oversleep is by how much the daemon's threads may.
const oversleep = 300 * time.Microsecond

// run is the daemon, and its part in a cluster if it has one. That outlives the
// daemon's migrations: it writes down how they end.
func run(ctx context.Context, d *nodecontroller.Daemon, log *slog.Logger) error {
	ready := func() { notify("READY=1") }
	k := d.Config().Kubernetes
	if !k.Enabled {
		return d.Run(ctx, ready)
	}
	access, err := identity.Access(k.Kubeconfig)
	if err != nil {
		return err
	}
	cluster, err := kubernetes.Connect(kubernetes.Options{
		Node: d.NodeName(), Access: access, Facts: d.Facts, Moves: d.Config().Places(), Engine: kubernetes.EngineOf(d), Log: log,
	})
	if err != nil {
		return err
	}
	d.SetPeerResolver(cluster.Peers(k.PeerPort))
	d.SetPodLookup(cluster.LookUpPod)
	outlive, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	failed, fail := context.WithCancel(ctx)
	defer fail()
	ended := make(chan error, 1)
	go func() {
		ended <- cluster.Run(outlive)
		fail()
	}()
	err = d.Run(failed, ready)
	stop()
	return errors.Join(err, <-ended)
}

// notify tells a service manager something, as sd_notify(3) has it. That there
// is none is no error.
func notify(state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}
