package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
)

func newCheck(a *app) *cobra.Command {
	req := new(nodev1.CheckRequest)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Find out whether this node has what a migration needs, and say what to do about what it lacks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(func(c nodev1.NodeClient) error {
				r, err := c.Check(cmd.Context(), req)
				if err != nil {
					return failure(err)
				}
				return a.printFindings(cmd.OutOrStdout(), r.Findings)
			})
		},
	}
	cmd.Flags().StringVar(&req.Peer, "to", "", "also see whether pods could be moved to this node")
	return cmd
}

// Finding is what one check found, as it is shown.
type Finding struct {
	Feature string `json:"feature"`
	Status  string `json:"status"`
	Detail  string `json:"detail"`
	Remedy  string `json:"remedy,omitempty"`
}

// printFindings ends with ExitMissing if something that is needed is not there.
func (a *app) printFindings(w io.Writer, findings []*nodev1.Finding) error {
	lacking := 0
	list := make([]Finding, 0, len(findings))
	for _, f := range findings {
		if f.Status == string(preflight.Missing) {
			lacking++
		}
		list = append(list, Finding{f.Feature, f.Status, f.Detail, f.Remedy})
	}
	if a.json {
		if err := PrintJSON(w, list); err != nil {
			return err
		}
	} else {
		PrintFindings(w, list)
	}
	if lacking == 0 {
		return nil
	}
	var said error
	if !a.json {
		said = fmt.Errorf("%d of %d findings keep migrations from working", lacking, len(findings))
	}
	return &exitError{ExitMissing, errors.Join(said)}
}

// PrintFindings writes findings for people, each with its remedy below it.
func PrintFindings(w io.Writer, findings []Finding) {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Feature))
	}
	for _, f := range findings {
		fmt.Fprintf(w, "%-8s %-*s  %s\n", f.Status, width, f.Feature, f.Detail)
		if f.Remedy != "" {
			fmt.Fprintf(w, "%s-> %s\n", strings.Repeat(" ", 9+width+2), f.Remedy)
		}
	}
}
