package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"

	"godwit.dev/godwit/test/lab"
)

// errNoEmulator says that there cannot be a virtual machine here: the tests are skipped.
var errNoEmulator = errors.New("no emulator")

// emulatorPackage is not the machine's, but that of the nodes' Debian, in a root file system of its own: qemu 7.2 (Debian 12)
// corrupts the flags in cmpxchg16b, and with a thread for each processor it at times runs an old translation of code that the
// kernel has patched; then the kernel dies of its own breakpoint. Both are mended since 8.1, and a later one emulates AES and SHA
// with the processor's own instructions, seven times as fast.
const emulatorPackage = "qemu-system-x86"

// emulator is qemu in a root file system.
type emulator struct{ root string }

// findEmulator finds or makes that root. Where there cannot be one the error wraps errNoEmulator.
func findEmulator(ctx context.Context, log *slog.Logger) (emulator, error) {
	if runtime.GOARCH != "amd64" {
		return emulator{}, fmt.Errorf("%w: only a kernel for amd64 has been tried, this is %s", errNoEmulator, runtime.GOARCH)
	}
	root, err := lab.DebianRoot(ctx, lab.Options{Log: log}, emulatorPackage)
	if err != nil {
		return emulator{}, fmt.Errorf("emulator: %w", err)
	}
	return emulator{root: root}, nil
}

// command is how qemu is run: by its own root's loader and with its own root's libraries, and otherwise in the root that we
// have, where the disks are.
func (e emulator) command(args ...string) []string {
	in := func(path string) string { return filepath.Join(e.root, path) }
	return append([]string{
		in("lib64/ld-linux-x86-64.so.2"), "--argv0", "qemu-system-x86_64", "--library-path", in("usr/lib/x86_64-linux-gnu"),
		in("usr/bin/qemu-system-x86_64"),
		"-L", in("usr/share/qemu"), "-L", in("usr/share/seabios"),
	}, args...)
}
