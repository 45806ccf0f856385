// Package kubectl is the commands of `kubectl godwit`: what people ask a cluster
// about migrations. It reads and writes PodMigration objects, and reads what nodes
// tell about themselves; it speaks to the API server only, and moves nothing
// itself. How figures are written and what exit codes mean is package cli's.
package kubectl

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"godwit.dev/godwit/nodecontroller"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

// Program is the name by which the binary is this plugin.
const Program = "kubectl-godwit"

// Run runs the plugin and returns its exit code.
func Run(args []string) int {
	log.SetLogger(logr.Discard()) // what is to be said is in the errors
	root := newRoot()
	root.SetArgs(args)
	return cli.Finish("kubectl godwit", root.ExecuteContext(context.Background()))
}

// app is what the commands share.
type app struct {
	config clientcmd.ClientConfig
	json   bool
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:         Program,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl godwit"},
		Short:       "Moves running pods between the nodes of a cluster",
		Long: `kubectl godwit makes PodMigration objects, upon which the nodes move pods, and shows
what becomes of them.

Exit codes: 0 success, 1 failure, 2 wrong command line, 3 refused (nothing was begun),
4 failed and 5 cancelled (the pod runs on the source), 7 check found something missing,
130 left while the migration goes on.`,
		Version:       nodecontroller.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	a := new(app)
	a.bindConfig(root)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(newMigrate(a), newList(a), newDescribe(a), newCancel(a), newCheck(a))
	return root
}

// bindConfig gives the command kubectl's own flags for which cluster and
// namespace, and as whom.
func (a *app) bindConfig(cmd *cobra.Command) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	overrides := new(clientcmd.ConfigOverrides)
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.Timeout.LongName = "request-timeout" // --timeout is a migration's
	flags := cmd.PersistentFlags()
	clientcmd.BindOverrideFlags(overrides, flags, names)
	flags.StringVar(&rules.ExplicitPath, clientcmd.RecommendedConfigPathFlag, "", "path to the kubeconfig file to use")
	for _, rare := range []string{"as", "as-group", "as-uid", "as-user-extra", "certificate-authority", "client-certificate", "client-key", "cluster", "disable-compression",
		"insecure-skip-tls-verify", "password", "proxy-url", "server", "tls-server-name", "token", "user", "username"} {
		_ = flags.MarkHidden(rare) // as everywhere in kubectl; they would hide ours in the help
	}
	a.config = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
}

// cluster is the connection of one command.
type cluster struct {
	client.WithWatch
	namespace string
}

// connect reaches the cluster that the flags or the kubeconfig name.
func (a *app) connect(warnings io.Writer) (*cluster, error) {
	namespace, _, err := a.config.Namespace()
	if err != nil {
		return nil, configError(err)
	}
	config, err := a.config.ClientConfig()
	if err != nil {
		return nil, configError(err)
	}
	config.UserAgent = Program + "/" + nodecontroller.Version
	config.WarningHandler = rest.NewWarningWriter(warnings, rest.WarningWriterOptions{Deduplicate: true})
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("API types: %w", err)
	}
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, cli.Exit(cli.ExitFailure, fmt.Errorf("cluster: %w", err))
	}
	return &cluster{c, namespace}, nil
}

func configError(err error) error {
	if clientcmd.IsEmptyConfig(err) {
		err = errors.New("no cluster is configured: set KUBECONFIG, or say --kubeconfig")
	}
	return cli.Exit(cli.ExitFailure, err)
}

// printable is a PodMigration as it is printed: with its type, and without what
// only the API server needs.
func printable(m *v1alpha1.PodMigration) *v1alpha1.PodMigration {
	m = m.DeepCopy()
	m.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("PodMigration"))
	m.ManagedFields = nil
	return m
}
