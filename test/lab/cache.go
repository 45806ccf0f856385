package lab

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Cached is the part of the cache that a lab needs which can make nothing by itself: one in a virtual machine, say, without
// network and compiler.
type Cached struct {
	// Dir is the cache's directory, as EnvCache names it. Layers are recorded by their paths in it: a copy of the cache must
	// be seen under the same path.
	Dir string
	// Root is the nodes' root file system, relative to Dir.
	Root string
	// Machine is a root file system for the machine on which the nodes run, relative to Dir: the nodes' packages, and more.
	Machine string
	// OlderCRIUs are the directories that OlderCRIU returns, relative to Dir.
	OlderCRIUs []string
	// Layers are the directories with layers of images, relative to Dir.
	Layers []string
	// Kubernetes is the directory with its programs, and Attacher that with csi-attacher, relative to Dir; empty unless the
	// options ask for it.
	Kubernetes, Attacher string
}

// FillCache makes everything that nodes and images of the given sets of Debian packages are made of, and a root file system
// with more packages than nodes have, where it is not in the cache already. Setup has run before.
func FillCache(ctx context.Context, o Options, images [][]string, more ...string) (Cached, error) {
	lo, err := newLayout(o.Dir)
	if err != nil {
		return Cached{}, err
	}
	l := &Lab{layout: lo, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	root, err := l.nodeRoot(ctx)
	if err != nil {
		return Cached{}, err
	}
	machine, err := l.debianRoot(ctx, slices.Concat(nodePackages, more))
	if err != nil {
		return Cached{}, err
	}
	pause, err := l.pauseImage(ctx)
	if err != nil {
		return Cached{}, err
	}
	c := Cached{Dir: l.cache}
	if c.Root, err = l.inCache(root); err != nil {
		return Cached{}, err
	}
	for _, release := range CRIUReleases {
		older, err := l.olderCRIU(ctx, release)
		if err != nil {
			return Cached{}, err
		}
		if older, err = l.inCache(older); err != nil {
			return Cached{}, err
		}
		c.OlderCRIUs = append(c.OlderCRIUs, older)
	}
	if o.Kubernetes {
		bin, err := l.kubernetesBin(ctx)
		if err != nil {
			return Cached{}, err
		}
		if c.Kubernetes, err = l.inCache(bin); err != nil {
			return Cached{}, err
		}
		attacher, err := l.attacherBin(ctx)
		if err != nil {
			return Cached{}, err
		}
		if c.Attacher, err = l.inCache(attacher); err != nil {
			return Cached{}, err
		}
	}
	if c.Machine, err = l.inCache(machine); err != nil {
		return Cached{}, err
	}
	layers := []layer{pause.Layer}
	for _, packages := range images {
		made, err := l.debianLayer(ctx, packages)
		if err != nil {
			return Cached{}, fmt.Errorf("image of %s: %w", strings.Join(packages, ", "), err)
		}
		layers = append(layers, made)
	}
	for _, made := range layers {
		dir, err := l.inCache(made.dir())
		if err != nil {
			return Cached{}, err
		}
		c.Layers = append(c.Layers, dir)
	}
	return c, nil
}

// inCache gives a path relative to the cache.
func (l layout) inCache(path string) (string, error) {
	rel, err := filepath.Rel(l.cache, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is not in the cache %s", path, l.cache)
	}
	return rel, nil
}

// InstallTools installs the Debian packages of programs that this machine lacks, by the programs' names.
func InstallTools(ctx context.Context, tools map[string]string, log *slog.Logger) error {
	missing := map[string]bool{}
	for tool, pkg := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing[pkg] = true
		}
	}
	return aptInstall(ctx, sortedKeys(missing), log)
}

// DebianRoot returns a root file system with more packages than Debian's minimal system has, of the release of the nodes, in the cache: made if
// it is not there. Setup has run before.
func DebianRoot(ctx context.Context, o Options, packages ...string) (dir string, err error) {
	lo, err := newLayout(o.Dir)
	if err != nil {
		return "", err
	}
	l := &Lab{layout: lo, log: o.Log}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l.debianRoot(ctx, packages)
}
