package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/lab"
)

func newExec() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec NODE -- COMMAND [ARG...]",
		Short: "Run a command in a node, with its exit status",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := commandOf(args)
			if len(command) == 0 {
				return fmt.Errorf("no command for node %s", args[0])
			}
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			n, err := l.Find(args[0])
			if err != nil {
				return err
			}
			// The terminal's signals go to the command itself, which is in our process group.
			signal.Ignore(os.Interrupt)
			c := n.Command(cmd.Context(), command...)
			c.SysProcAttr = nil
			c.Cancel = nil
			c.Env = append(c.Env, "TERM="+os.Getenv("TERM"))
			c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
			var exit *exec.ExitError
			if err := c.Run(); errors.As(err, &exit) {
				return fmt.Errorf("%w: %w", errCommand, err)
			} else if err != nil {
				return err
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the node is the command's
	return cmd
}

// commandOf is what follows the node, with the dashes or without.
func commandOf(args []string) []string {
	if args[1] == "--" {
		return args[2:]
	}
	return args[1:]
}

func newLogs() *cobra.Command {
	return &cobra.Command{
		Use:   "logs NODE [SERVICE]",
		Short: "Print what a node's services wrote, also of a node that died",
		Long: `Print what a service of a node wrote: containerd, godwit-node (if none is named), init or link; in a cluster also kubelet and
kube-proxy, and of the node control-plane etcd, kube-apiserver, kube-controller-manager and kube-scheduler.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			service := "godwit-node"
			if len(args) == 2 {
				service = args[1]
			}
			file, err := lab.LogFile("", args[0], service)
			if err != nil {
				return err
			}
			f, err := os.Open(file)
			if err != nil {
				return fmt.Errorf("log of %s on node %s: %w", service, args[0], err)
			}
			defer f.Close()
			_, err = io.Copy(os.Stdout, f)
			return err
		},
	}
}

func newKill() *cobra.Command {
	return &cobra.Command{
		Use:   "kill NODE",
		Short: "End a node as a power loss would; up builds it again",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			n, err := l.Find(args[0])
			if err != nil {
				return err
			}
			return n.Kill()
		},
	}
}
