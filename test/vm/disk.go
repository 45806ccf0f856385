package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/vm/guest"
)

// systemFormat changes when the content of the system disk is laid out in another way.
const systemFormat = "4"

// systemSize is what the machine sees; only what is written takes room, and that is gone with the machine.
const systemSize = "24G"

// systemDisk returns the image with the lab's cache and the kernel's modules, made when one of them is another than in the
// image that there is. The caller holds the cache's lock.
func systemDisk(ctx context.Context, cache string, k kernel, c lab.Cached, log *slog.Logger) (string, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("system disk: %w", err)
	}
	key := sha256.Sum256([]byte(strings.Join(slices.Concat([]string{systemFormat, k.version, c.Root, c.Machine}, c.OlderCRIUs, c.Layers), " ")))
	name := "system-" + k.suite + "-"
	image := filepath.Join(cache, name+hex.EncodeToString(key[:6])+".img")
	if _, err := os.Stat(image); err == nil {
		return image, nil
	}
	log.Info("making the virtual machine's system disk, once")
	// Machines that run have the old ones open.
	old, err := filepath.Glob(filepath.Join(cache, name+"*"))
	if err != nil {
		return "", err
	}
	for _, f := range old {
		if err := os.RemoveAll(f); err != nil {
			return "", err
		}
	}
	tree, err := freshDir(filepath.Join(cache, "system.tmp"))
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tree)
	if err := systemTree(ctx, tree, k, c, busybox); err != nil {
		return "", fmt.Errorf("system disk: %w", err)
	}
	if err := makeDisk(ctx, tree, image+".tmp", systemSize); err != nil {
		return "", fmt.Errorf("system disk: %w", err)
	}
	return image, os.Rename(image+".tmp", image)
}

// systemTree puts the disk's content together, with links where there is much of it.
func systemTree(ctx context.Context, tree string, k kernel, c lab.Cached, busybox string) error {
	if err := os.MkdirAll(filepath.Join(tree, guest.CacheDir, "locks"), 0o755); err != nil {
		return err
	}
	copies := map[string]string{
		k.modules():                  guest.ModulesDir,
		busybox:                      guest.Busybox,
		filepath.Join(c.Dir, c.Root): filepath.Join(guest.CacheDir, c.Root),
	}
	for _, dir := range slices.Concat(c.Layers, c.OlderCRIUs, []string{c.Machine}) {
		copies[filepath.Join(c.Dir, dir)] = filepath.Join(guest.CacheDir, dir)
	}
	for from, to := range copies {
		to = filepath.Join(tree, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		how := "-al"
		if from == busybox {
			how = "-aL" // from another file system, perhaps
		}
		if _, err := output(exec.CommandContext(ctx, "cp", how, from, to)); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes an image of an ext4 file system with the content of a directory. It has no journal: nobody sees it after
// a crash.
func makeDisk(ctx context.Context, tree, image, size string) error {
	if err := os.RemoveAll(image); err != nil {
		return err
	}
	_, err := output(exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=0,root_owner=0:0",
		"-m", "0", "-d", tree, image, size))
	return err
}
