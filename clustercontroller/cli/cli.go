// Package cli is the command line of godwit-controller.
package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"godwit.dev/godwit/clustercontroller"
	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// Controller is the command godwit-controller.
func Controller() *cobra.Command {
	o := clustercontroller.Options{}
	var kubeconfig string
	cmd := &cobra.Command{
		Use:           "godwit-controller",
		Short:         "Signs the certificates of a cluster's nodes, and serves Godwit's admission webhooks",
		Args:          cobra.NoArgs,
		Version:       nodecontroller.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := restConfig(kubeconfig)
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return clustercontroller.Run(ctx, config, o, log)
		},
	}
	flags := cmd.Flags()
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server; empty in a pod")
	cmd.PersistentFlags().StringVar(&o.Namespace, "namespace", "godwit-system", "Godwit's own namespace")
	flags.StringVar(&o.Service, "service", "godwit-controller", "the Service by which the API server reaches webhooks")
	flags.IntVar(&o.WebhookPort, "webhook-port", 9443, "where webhooks are served")
	flags.StringVar(&o.HealthAddress, "health-address", ":8081", "where /healthz and /readyz are served")
	flags.StringVar(&o.MetricsAddress, "metrics-address", ":8080", "where /metrics is served; 0 for nowhere")
	cmd.PersistentFlags().StringVar(&o.Signer, "signer", v1alpha1.SignerPeer, "who signs the nodes' certificates; this controller, or another signer of the CSR API")
	flags.DurationVar(&o.Validity, "certificate-validity", 30*24*time.Hour, "how long a node's certificate holds; it is renewed when a third of that is left")
	flags.IntVar(&o.Admission.PerNode, "drain-per-node", 2, "how many pods are moved at a time from a node that is drained")
	flags.IntVar(&o.Admission.Attempts, "drain-attempts", 3, "how often a pod's move is tried before its drain gives up")
	flags.DurationVar(&o.Admission.Pause, "drain-pause", 30*time.Second, "between the first attempt and the second; then twice as long each time")
	flags.DurationVar(&o.Admission.Keep, "drain-keep", time.Hour, "how long the PodMigrations of a drain stay after they ended")
	cmd.AddCommand(newUninstall(&kubeconfig, &o))
	return cmd
}

// restConfig says how to reach the API server. It is asked without a limit of the
// client's own, of five calls a second, for which pods that are made at the same
// time would wait in admission: the server's priority and fairness protects it.
func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("API server: %w: outside of a pod give --kubeconfig", err)
		}
		config.QPS = -1
		return config, nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	config.QPS = -1
	return config, nil
}
