package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"godwit.dev/godwit/clustercontroller"
	"godwit.dev/godwit/clustercontroller/uninstall"
)

// errTooLong is the cause of the end of an uninstall that took too long.
var errTooLong = errors.New("not ended in time")

func newUninstall(kubeconfig *string, controller *clustercontroller.Options) *cobra.Command {
	o := uninstall.Options{Lease: clustercontroller.LeaseName}
	var podFile string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take Godwit off every node, before its objects are removed",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Namespace, o.Signer = controller.Namespace, controller.Signer
			b, err := os.ReadFile(podFile)
			if err != nil {
				return fmt.Errorf("pod that uninstalls: %w", err)
			}
			if err := yaml.UnmarshalStrict(b, &o.Pod); err != nil {
				return fmt.Errorf("pod that uninstalls, %s: %w", podFile, err)
			}
			config, err := restConfig(*kubeconfig)
			if err != nil {
				return err
			}
			scheme, err := clustercontroller.NewScheme()
			if err != nil {
				return err
			}
			c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
			if err != nil {
				return fmt.Errorf("API server: %w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTooLong)
			defer cancel()
			return uninstall.Run(ctx, c, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.DaemonSet, "daemonset", "godwit-node", "the node daemons' DaemonSet")
	f.StringVar(&o.Deployment, "deployment", "godwit-controller", "the controller's Deployment")
	f.StringVar(&o.Webhooks, "webhooks", "godwit", "the name of the webhook configurations")
	f.StringVar(&podFile, "pod", "/etc/godwit/pod.yaml", "file with the specification of the pod that uninstalls on a node")
	f.BoolVar(&o.Force, "force", false, "also while pods of the runtime run, and migrations")
	f.DurationVar(&timeout, "timeout", 4*time.Minute, "how long all of it may take")
	return cmd
}
