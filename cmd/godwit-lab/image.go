package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/lab"
)

func newImage() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Images, made on this machine"}
	cmd.AddCommand(newImageAdd(), newImageList())
	return cmd
}

func newImageAdd() *cobra.Command {
	var spec lab.ImageSpec
	cmd := &cobra.Command{
		Use:   "add NAME DIR | add NAME --debian PACKAGE,...",
		Short: "Make an image of a directory or of Debian packages, and give it to the nodes",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Name = args[0]
			if len(args) == 2 {
				spec.Dir = args[1]
			}
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			defer l.Close()
			if len(l.Nodes()) == 0 {
				return errors.New("no node is up to take an image; see godwit-lab up")
			}
			l.SetLog(logger())
			ref, err := l.AddImage(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return print(map[string]string{"image": ref}, func(w *tabwriter.Writer) { fmt.Fprintln(w, ref) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&spec.Debian, "debian", nil, "Debian packages, on a minimal system")
	f.StringArrayVar(&spec.Entrypoint, "entrypoint", nil, "word of the entrypoint; repeat for more")
	f.StringArrayVar(&spec.Cmd, "cmd", nil, "word of the default arguments; repeat for more")
	f.StringArrayVar(&spec.Env, "env", nil, "NAME=VALUE in the environment; repeat for more")
	f.StringVar(&spec.User, "user", "", "user, or UID:GID")
	f.StringVar(&spec.WorkDir, "workdir", "", "working directory")
	f.StringSliceVar(&spec.Nodes, "node", nil, "give it to these nodes only")
	return cmd
}

func newImageList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the images that each node has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			defer l.Close()
			images := []lab.Image{}
			for _, n := range l.Nodes() {
				more, err := n.ListImages(cmd.Context())
				if err != nil {
					return err
				}
				images = append(images, more...)
			}
			return print(images, func(w *tabwriter.Writer) {
				fmt.Fprintln(w, "NODE\tIMAGE\tID\tMIB")
				for _, i := range images {
					fmt.Fprintf(w, "%s\t%s\t%.19s\t%.1f\n", i.Node, i.Ref, i.ID, float64(i.Size)/(1<<20))
				}
			})
		},
	}
}
