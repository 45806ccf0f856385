package cli

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/pagestream/wire/pki"
)

// authorityDir is where an authority is made unless it is told otherwise.
const authorityDir = "/etc/godwit/ca"

func newPKI() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "A certificate authority for nodes, where there is no other",
	}
	cmd.AddCommand(newPKIInit(), newPKIIssue())
	return cmd
}

func newPKIInit() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make an authority: ca.crt, and ca.key, which stays where it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pki.Init(dir); err != nil {
				return &exitError{ExitFailure, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "authority made in %s\n", dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", authorityDir, "the authority's directory")
	return cmd
}

func newPKIIssue() *cobra.Command {
	var dir, name, out string
	var ips []net.IP
	cmd := &cobra.Command{
		Use:   "issue --name NODE --ip ADDRESS --out DIR",
		Short: "Issue a node's certificate: ca.crt, node.crt and node.key, to be copied to the node's pki_dir",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pki.Issue(dir, name, ips, out); err != nil {
				return &exitError{ExitFailure, err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "certificate of node %s issued in %s\n", name, out)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", authorityDir, "the authority's directory")
	cmd.Flags().StringVar(&name, "name", "", "the node's name, as in its node_name")
	cmd.Flags().IPSliceVar(&ips, "ip", nil, "the node's addresses")
	cmd.Flags().StringVar(&out, "out", "", "the directory to write to")
	_ = cmd.MarkFlagRequired("name")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}
