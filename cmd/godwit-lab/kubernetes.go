package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/lab"
)

func newKubectl() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [ARG...]",
		Short:              "Run kubectl as the cluster's administrator",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			c := l.Kubernetes()
			if c == nil {
				return errors.New("the lab has no Kubernetes; see godwit-lab up --kubernetes")
			}
			// In our place: signals, the terminal and the exit status are its own.
			kubectl := filepath.Join(c.Bin(), "kubectl")
			err = unix.Exec(kubectl, append([]string{"kubectl"}, args...), append(os.Environ(), "KUBECONFIG="+c.Kubeconfig()))
			return fmt.Errorf("%s: %w", kubectl, err)
		},
	}
}

func newHelm() *cobra.Command {
	return &cobra.Command{
		Use:   "helm",
		Short: "Print where helm's program is, built the first time",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := lab.HelmBin(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), program)
			return nil
		},
	}
}

func printKubernetes(w *tabwriter.Writer, k *lab.KubernetesStatus) {
	services := "dead; godwit-lab up starts it again"
	if k.Running {
		var all []string
		for _, s := range k.Services {
			all = append(all, s.Name+" "+state(s))
		}
		services = strings.Join(all, ", ")
	}
	if k.Error != "" {
		services = k.Error
	}
	fmt.Fprintf(w, "\nKubernetes at %s: %s\nKUBECONFIG=%s\n", k.Server, services, k.Kubeconfig)
}
