package kubectl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
	"godwit.dev/godwit/pagestream/track"
)

// request is what the flags of migrate say.
type request struct {
	pod, to                    string
	mode, tracker, compression string
	rule, onStall              string
	downtimeLimit              time.Duration
	maxRounds, priority        int32
	maxTime, timeout           time.Duration
	dirtyLimit, bandwidth      amount
	keepSource, compareDump    bool
}

// amount is a flag of bytes, as Kubernetes writes them: 16Mi.
type amount struct{ *resource.Quantity }

func (a *amount) Set(s string) error {
	q, err := resource.ParseQuantity(strings.TrimSuffix(s, "B"))
	if err != nil || q.Sign() <= 0 {
		return fmt.Errorf("%q is no amount of bytes: write 16Mi", s)
	}
	a.Quantity = &q
	return nil
}

func (a *amount) String() string {
	if a.Quantity == nil {
		return ""
	}
	return a.Quantity.String()
}

func (*amount) Type() string { return "bytes" }

func newMigrate(a *app) *cobra.Command {
	var r request
	var wait bool
	cmd := &cobra.Command{
		Use:   "migrate POD [--to NODE]",
		Short: "Move a running pod to another node",
		Long: `Makes a PodMigration, upon which the pod is moved. Without --to a node is chosen as the
scheduler would.

With --wait, progress is shown until the end. Ctrl-C then cancels the migration and waits
until the pod runs on where it was; a second Ctrl-C leaves at once, and the migration to
the cluster. With --json the object is printed as it is made, and with --wait after each change, each
time on a line of its own.`,
		Example: `  kubectl godwit migrate cache-0 --to node-2 --wait
  kubectl godwit migrate cache-0 -n shop --mode cold --timeout 5m`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.pod = strings.TrimPrefix(args[0], "pod/") // as kubectl prints it
			m, err := r.object()
			if err != nil {
				return err
			}
			c, err := a.connect(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return a.migrate(cmd, c, m, wait)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&r.to, "to", "", "the node to move to")
	flags.StringVar(&r.mode, "mode", "", "live (the default); cold: freeze first, then copy; hybrid: as live, and what is dirty then is fetched after the move; postcopy: everything is")
	flags.StringVar(&r.tracker, "tracker", "auto", "what finds the memory that the pod writes: auto, write-protect, soft-dirty or none")
	flags.Int32Var(&r.maxRounds, "max-rounds", 0, "rounds after the first full copy at most (0: the default)")
	flags.DurationVar(&r.maxTime, "max-time", 0, "time for all rounds at most (0: the default)")
	flags.Var(&r.dirtyLimit, "dirty-limit", "freeze when less memory than this is dirty, as in 4Mi")
	flags.StringVar(&r.rule, "rule", "", "what ends the rounds: default, by the downtime predicted, or s0, by dirty rates predicted")
	flags.DurationVar(&r.downtimeLimit, "downtime-limit", 0, "the predicted downtime that is short enough (0: 300ms)")
	flags.StringVar(&r.onStall, "on-stall", "", "if the downtime would be longer than the limit: stopandcopy (the default); abort, and the pod runs on where it is; throttle, hold its processors back until it is not; or postcopy, to go on as --mode hybrid")
	flags.DurationVar(&r.timeout, "timeout", 0, "give up if not committed after this (0: 30m)")
	flags.Var(&r.bandwidth, "bandwidth", "bytes a second at most, as in 100Mi")
	flags.Int32Var(&r.priority, "priority", 0, "if more pods are to leave a node than may at a time, the higher goes first")
	flags.StringVar(&r.compression, "compression", "auto", "auto, none, lz4 or zstd")
	flags.BoolVar(&r.compareDump, "compare-dump", false, "for who looks for a fault: have CRIU dump the frozen pod by itself as well, and compare the other node's memory with that, page by page, before it runs there; the pod stands still for much longer")
	flags.BoolVar(&r.keepSource, "keep-source-on-failure", true, "let the pod run on if it cannot be moved; false deletes it then, for its owner to make it anew")
	flags.BoolVar(&wait, "wait", false, "show progress until the end")
	return cmd
}

// object is the PodMigration that the flags ask for. What the flags leave open is
// left to the API's defaults.
func (r request) object() (*v1alpha1.PodMigration, error) {
	mode, err := oneOf("mode", r.mode, v1alpha1.ModeLive, v1alpha1.ModeCold, v1alpha1.ModePostCopy, v1alpha1.ModeHybrid)
	if err != nil {
		return nil, err
	}
	compression, err := oneOf("compression", r.compression,
		v1alpha1.CompressionAuto, v1alpha1.CompressionNone, v1alpha1.CompressionLZ4, v1alpha1.CompressionZstd)
	if err != nil {
		return nil, err
	}
	rule, err := oneOf("rule", r.rule, v1alpha1.RuleDefault, v1alpha1.RuleS0)
	if err != nil {
		return nil, err
	}
	onStall, err := oneOf("on-stall", r.onStall, v1alpha1.OnStallStopAndCopy, v1alpha1.OnStallAbort, v1alpha1.OnStallThrottle, v1alpha1.OnStallPostCopy)
	if err != nil {
		return nil, err
	}
	tracker, err := track.ParseEngine(r.tracker)
	if err != nil {
		return nil, fmt.Errorf("--tracker: %w", err)
	}
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{GenerateName: namePrefix(r.pod)},
		Spec: v1alpha1.PodMigrationSpec{
			PodName:             r.pod,
			TargetNode:          r.to,
			Mode:                mode,
			Tracker:             v1alpha1.Tracker(tracker.String()),
			PreCopy:             r.preCopy(rule, onStall),
			Timeout:             given(r.timeout),
			Compression:         compression,
			Bandwidth:           r.bandwidth.Quantity,
			Priority:            r.priority,
			CompareDump:         r.compareDump,
			KeepSourceOnFailure: &r.keepSource,
		},
	}
	if m.Spec.Mode == "" && tracker == track.None {
		m.Spec.Mode = v1alpha1.ModeCold // to move without a tracker is to move cold
	}
	return m, nil
}

func (r request) preCopy(rule v1alpha1.Rule, onStall v1alpha1.OnStall) *v1alpha1.PreCopy {
	p := &v1alpha1.PreCopy{Rule: rule, OnStall: onStall, DowntimeLimit: given(r.downtimeLimit), MaxRounds: r.maxRounds, MaxDuration: given(r.maxTime), DirtyLimit: r.dirtyLimit.Quantity}
	if *p == (v1alpha1.PreCopy{}) {
		return nil
	}
	return p
}

// given is a duration that was asked for, nil if none was.
func given(d time.Duration) *metav1.Duration {
	if d == 0 {
		return nil
	}
	return &metav1.Duration{Duration: d}
}

// oneOf reads a flag in any spelling of one of the API's values; empty stays empty.
func oneOf[T ~string](flag, value string, known ...T) (T, error) {
	names := make([]string, len(known))
	for i, k := range known {
		if strings.EqualFold(value, string(k)) {
			return k, nil
		}
		names[i] = strings.ToLower(string(k))
	}
	if value == "" {
		return "", nil
	}
	return "", fmt.Errorf("--%s: %q is none of %s", flag, value, strings.Join(names, ", "))
}

// namePrefix is what the API server adds five characters to, for the name of a
// pod's migration: it may have 63, and no dot before a dash.
func namePrefix(pod string) string {
	const most = 63 - 5 - 1
	return strings.TrimRight(pod[:min(len(pod), most)], ".-") + "-"
}

// migrate makes the object, and waits for its end if that is asked for.
func (a *app) migrate(cmd *cobra.Command, c *cluster, m *v1alpha1.PodMigration, wait bool) error {
	ctx := cmd.Context()
	m.Namespace = c.namespace
	if err := c.known(ctx, m); err != nil {
		return err
	}
	if err := c.Create(ctx, m); err != nil {
		return failure("the migration of pod "+m.Spec.PodName, err)
	}
	out := cmd.OutOrStdout()
	if wait {
		return c.wait(ctx, m, a.view(out))
	}
	if a.json {
		return cli.PrintJSON(out, printable(m))
	}
	fmt.Fprintf(out, "podmigration %s made; see kubectl godwit describe %s -n %s\n", m.Name, m.Name, m.Namespace)
	return nil
}

// known sees that pod and node exist, as far as the caller may look: a name that
// is misspelt is said at once, and not by a failed migration.
func (c *cluster) known(ctx context.Context, m *v1alpha1.PodMigration) error {
	var pod corev1.Pod
	err := c.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: m.Spec.PodName}, &pod)
	if apierrors.IsNotFound(err) {
		return cli.Exit(cli.ExitRefused, fmt.Errorf("there is no pod %s in namespace %s", m.Spec.PodName, c.namespace))
	}
	if m.Spec.TargetNode == "" {
		return nil
	}
	if err == nil && pod.Spec.NodeName == m.Spec.TargetNode {
		return cli.Exit(cli.ExitRefused, fmt.Errorf("pod %s is on node %s already", pod.Name, pod.Spec.NodeName))
	}
	err = c.Get(ctx, client.ObjectKey{Name: m.Spec.TargetNode}, new(corev1.Node))
	if apierrors.IsNotFound(err) {
		return cli.Exit(cli.ExitRefused, fmt.Errorf("there is no node %s: see kubectl godwit check", m.Spec.TargetNode))
	}
	return nil
}
