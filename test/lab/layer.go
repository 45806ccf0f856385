package lab

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// layer is an image layer on the disk: an uncompressed tar, so its digest is also its diff ID.
type layer struct {
	Path   string `json:"path"`
	Digest string `json:"digest"` // "sha256:..."
	Size   int64  `json:"size"`
}

// dir is where the layer and what is recorded of it are.
func (l layer) dir() string { return filepath.Dir(l.Path) }

// unneeded are the parts of a Debian root that no workload reads: documentation, translations, logs of the installation,
// what installs packages, which nobody does in a lab's container, and tables of characters. It is half of the files, and to unpack
// them on each node is most of what an image costs. A name stands for itself and all below; with a slash at its end, for what is in it; with two, for
// the files in it and below, because services expect their directories there.
var unneeded = []string{
	"boot/", "debootstrap", "dev/", "proc/", "run/", "sys/", "tmp/",
	"usr/lib/apt", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/perl-base/unicore", "usr/share/bash-completion",
	"usr/share/bug", "usr/share/common-licenses", "usr/share/doc", "usr/share/doc-base", "usr/share/info", "usr/share/keyrings",
	"usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/perl5/Debconf",
	"var/cache/apt/", "var/cache/debconf/", "var/cache/ldconfig/", "var/cache/man/", "var/lib/apt/lists/", "var/lib/dpkg/info/", "var/log//",
}

// writeLayer packs the tree at root into file, leaving out skip (as unneeded is written). Owners, modes, links, devices and
// extended attributes are kept; sockets are not.
func writeLayer(ctx context.Context, file, root string, skip []string) (layer, error) {
	f, err := os.Create(file)
	if err != nil {
		return layer{}, err
	}
	defer f.Close()
	sum := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	p := &packer{ctx: ctx, tar: tar.NewWriter(buffered), root: root, skip: skip, links: map[[2]uint64]string{}}
	if err := filepath.WalkDir(root, p.add); err != nil {
		return layer{}, fmt.Errorf("layer of %s: %w", root, err)
	}
	if err := p.tar.Close(); err != nil {
		return layer{}, fmt.Errorf("layer of %s: %w", root, err)
	}
	if err := buffered.Flush(); err != nil {
		return layer{}, fmt.Errorf("layer of %s: %w", root, err)
	}
	info, err := f.Stat()
	if err != nil {
		return layer{}, err
	}
	return layer{Path: file, Digest: "sha256:" + hex.EncodeToString(sum.Sum(nil)), Size: info.Size()}, f.Close()
}

type packer struct {
	ctx   context.Context
	tar   *tar.Writer
	root  string
	skip  []string
	links map[[2]uint64]string // device and inode of files with several names, to the first
}

func (p *packer) add(path string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if err := p.ctx.Err(); err != nil {
		return err
	}
	name, err := filepath.Rel(p.root, path)
	if err != nil || name == "." {
		return err
	}
	if p.skipped(name, d.IsDir()) {
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	h, err := p.header(path, name, info)
	if err != nil {
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(p.tar, f)
	return err
}

func (p *packer) skipped(name string, dir bool) bool {
	return slices.ContainsFunc(p.skip, func(s string) bool {
		if in, ok := strings.CutSuffix(s, "//"); ok {
			return !dir && strings.HasPrefix(name, in+"/")
		}
		if in, ok := strings.CutSuffix(s, "/"); ok {
			return strings.HasPrefix(name, in+"/")
		}
		return name == s || strings.HasPrefix(name, s+"/")
	})
}

func (p *packer) header(path, name string, info fs.FileInfo) (*tar.Header, error) {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	h.Format = tar.FormatPAX
	if info.IsDir() {
		h.Name += "/"
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return h, nil
		}
		p.links[key] = name
	}
	return h, addXattrs(h, path)
}

// addXattrs keeps extended attributes (file capabilities above all) the way containerd and GNU tar write them.
func addXattrs(h *tar.Header, path string) error {
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes of %s: %w", path, err)
	}
	for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if attr == "" || strings.HasPrefix(attr, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, attr, value)
		if err != nil {
			return fmt.Errorf("extended attribute %s of %s: %w", attr, path, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+attr] = string(value[:n])
	}
	return nil
}
