package cli

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/pagestream/wire/pki"
)

func newPKI() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "A certificate authority for nodes, where there is no other",
	}
	cmd.AddCommand(newPKIInit(), newPKIIssue())
	return cmd
}

func newPKIInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Make an authority: DIR/ca.crt, and DIR/ca.key, which stays where it is",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := pki.Init(args[0]); err != nil {
				return &exitError{ExitFailure, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "authority made in %s\n", args[0])
			return nil
		},
	}
}

func newPKIIssue() *cobra.Command {
	var ca, node, out string
	var ips []net.IP
	cmd := &cobra.Command{
		Use:   "issue --ca DIR --node NAME --ip ADDRESS --out DIR",
		Short: "Issue a node's certificate: ca.crt, node.crt and node.key in a directory to be copied to the node's pki_dir",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pki.Issue(ca, node, ips, out); err != nil {
				return &exitError{ExitFailure, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificate of node %s issued in %s\n", node, out)
			return nil
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "the authority's directory")
	cmd.Flags().StringVar(&node, "node", "", "the node's name, as in its node_name")
	cmd.Flags().IPSliceVar(&ips, "ip", nil, "the node's addresses")
	cmd.Flags().StringVar(&out, "out", "", "where to write")
	for _, name := range []string{"ca", "node", "out"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}
