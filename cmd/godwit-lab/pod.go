package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"godwit.dev/godwit/test/lab"
)

func newPod() *cobra.Command {
	cmd := &cobra.Command{Use: "pod", Short: "Pods, through each node's CRI"}
	cmd.AddCommand(newPodRun(), newPodList(), newPodRemove(), newPodLogs())
	return cmd
}

func newPodRun() *cobra.Command {
	var spec lab.PodSpec
	var images, env, mounts []string
	var annotations, labels map[string]string
	var file string
	cmd := &cobra.Command{
		Use:   "run NODE --name NAME --image IMAGE [--image IMAGE...] [-- ARG... [-- ARG...]]",
		Short: "Run a pod on a node",
		Long: `Run a pod on a node: a container for each --image. What follows the first -- are the arguments of the first
container (after the image's entrypoint, if it has one), what follows the second -- those of the second, and so on.
Everything else that a pod can have goes into a JSON file for --spec; see PodSpec in test/lab/pod.go.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				if err := readSpec(file, &spec); err != nil {
					return err
				}
			}
			spec.Annotations, spec.Labels = merge(spec.Annotations, annotations), merge(spec.Labels, labels)
			if err := addContainers(&spec, images, args[1:], env, mounts); err != nil {
				return err
			}
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			defer l.Close()
			n, err := l.Find(args[0])
			if err != nil {
				return err
			}
			pod, err := n.RunPod(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return print(pod, func(w *tabwriter.Writer) { podRows(w, []lab.Pod{*pod}) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.Name, "name", "", "the pod's name")
	f.StringVar(&spec.Handler, "runtime", lab.DefaultHandler, "CRI runtime handler: godwit or runc")
	f.StringVar(&spec.Hostname, "hostname", "", "host name (default: the name)")
	f.StringArrayVar(&images, "image", nil, "image of a container; repeat for more containers")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE in the environment of all containers; repeat for more")
	f.StringArrayVar(&mounts, "mount", nil, "NODE-DIR:CONTAINER-DIR[:ro] in all containers; repeat for more")
	f.StringToStringVar(&annotations, "annotation", nil, "NAME=VALUE of the pod; repeat for more")
	f.StringToStringVar(&labels, "label", nil, "NAME=VALUE of the pod; repeat for more")
	f.StringVar(&file, "spec", "", "JSON file with the pod, - for standard input")
	return cmd
}

func readSpec(file string, spec *lab.PodSpec) error {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	d := json.NewDecoder(in)
	d.DisallowUnknownFields()
	if err := d.Decode(spec); err != nil {
		return fmt.Errorf("pod in %s: %w", file, err)
	}
	return nil
}

func merge(into, more map[string]string) map[string]string {
	if into == nil {
		return more
	}
	for k, v := range more {
		into[k] = v
	}
	return into
}

// addContainers makes a container of each image, with its part of the words.
func addContainers(spec *lab.PodSpec, images, words, env, mounts []string) error {
	var dirs []lab.Mount
	for _, m := range mounts {
		parts := strings.Split(m, ":")
		if len(parts) < 2 || len(parts) > 3 || len(parts) == 3 && parts[2] != "ro" || !filepath.IsAbs(parts[0]) || !filepath.IsAbs(parts[1]) {
			return fmt.Errorf("mount %q: want NODE-DIR:CONTAINER-DIR, absolute, or with :ro", m)
		}
		dirs = append(dirs, lab.Mount{Node: parts[0], Container: parts[1], ReadOnly: len(parts) == 3})
	}
	commands := splitWords(words)
	if len(commands) > len(images) {
		return fmt.Errorf("%d commands for %d images", len(commands), len(images))
	}
	for i, image := range images {
		c := lab.ContainerSpec{Image: image}
		if i < len(commands) {
			c.Args = commands[i]
		}
		spec.Containers = append(spec.Containers, c)
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		c.Env, c.Mounts = append(c.Env, env...), append(c.Mounts, dirs...)
	}
	return nil
}

// splitWords cuts at each "--".
func splitWords(words []string) [][]string {
	if len(words) == 0 {
		return nil
	}
	parts := [][]string{nil}
	for _, w := range words {
		if w == "--" {
			parts = append(parts, nil)
			continue
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], w)
	}
	return parts
}

func newPodList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the pods of all nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Open("")
			if err != nil {
				return err
			}
			defer l.Close()
			pods := []lab.Pod{}
			for _, n := range l.Nodes() {
				more, err := n.Pods(cmd.Context())
				if err != nil {
					return err
				}
				pods = append(pods, more...)
			}
			return print(pods, func(w *tabwriter.Writer) { podRows(w, pods) })
		},
	}
}

func podRows(w *tabwriter.Writer, pods []lab.Pod) {
	fmt.Fprintln(w, "NODE\tPOD\tID\tSTATE\tIP\tRUNTIME\tAGE\tCONTAINERS")
	for _, p := range pods {
		var containers []string
		for _, c := range p.Containers {
			containers = append(containers, fmt.Sprintf("%s %.12s %s", c.Name, c.ID, c.State))
		}
		fmt.Fprintf(w, "%s\t%s\t%.12s\t%s\t%s\t%s\t%s\t%s\n", p.Node, p.Name, p.ID, p.State, p.IP, p.Handler,
			time.Since(p.Created).Round(time.Second), strings.Join(containers, ", "))
	}
}

// findPod opens the lab and finds a pod of a node by its name.
func findPod(cmd *cobra.Command, node, name string) (*lab.Lab, *lab.Node, *lab.Pod, error) {
	l, err := lab.Open("")
	if err != nil {
		return nil, nil, nil, err
	}
	n, err := l.Find(node)
	if err != nil {
		return nil, nil, nil, err
	}
	pod, err := n.FindPod(cmd.Context(), name)
	if err != nil {
		return nil, nil, nil, errors.Join(err, l.Close())
	}
	return l, n, pod, nil
}

func newPodRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NODE NAME",
		Short: "Stop and remove a pod",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, n, pod, err := findPod(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			defer l.Close()
			return n.RemovePod(cmd.Context(), pod.ID)
		},
	}
}

func newPodLogs() *cobra.Command {
	return &cobra.Command{
		Use:   "logs NODE NAME [CONTAINER]",
		Short: "Print what a pod's containers wrote, in CRI's log format",
		Args:  cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, n, pod, err := findPod(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			defer l.Close()
			for _, c := range pod.Containers {
				if len(args) == 3 && c.Name != args[2] {
					continue
				}
				f, err := os.Open(n.Path(c.Log))
				if err != nil {
					return fmt.Errorf("log of %s: %w", c.Name, err)
				}
				_, err = io.Copy(os.Stdout, f)
				f.Close()
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}
