package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/vm/guest"
)

// mountKernel mounts what the kernel shows of itself, in the initial RAM file system.
func mountKernel() error {
	for _, m := range []struct{ target, fstype string }{{"/proc", "proc"}, {"/sys", "sysfs"}, {"/dev", "devtmpfs"}} {
		if err := mount(m.fstype, m.target, m.fstype, 0, ""); err != nil {
			return err
		}
	}
	return nil
}

// mount makes the target and mounts something on it.
func mount(source, target, fstype string, flags uintptr, data string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", source, fstype, target, err)
	}
	return nil
}

// loadBootModules loads the modules that the root file system needs. They come compressed, and the kernel unpacks them
// (CONFIG_MODULE_DECOMPRESS).
func loadBootModules() error {
	names, err := filepath.Glob(filepath.Join(guest.BootModules, "*"))
	if err != nil {
		return fmt.Errorf("modules: %w", err)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := loadModule(name); err != nil {
			return fmt.Errorf("load module %s: %w", filepath.Base(name), err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	return unix.FinitModule(int(f.Fd()), "", flags)
}

// deviceTimeout is how long a device may take to appear after its driver is there.
const deviceTimeout = 60 * time.Second

// findDevice waits for the device whose attribute (below /sys, with a * for its name) has a value, and returns its name.
// There is nobody here yet who would tell of a new one.
func findDevice(attribute, value string) (string, error) {
	deadline := time.Now().Add(deviceTimeout)
	for {
		files, _ := filepath.Glob(attribute)
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == value {
				return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no device is %s within %v: of %s there are %q", value, deviceTimeout, attribute, files)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// openControl opens the way to the host.
func openControl() (*os.File, error) {
	dev, err := findDevice("/sys/class/virtio-ports/*/name", guest.Port)
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	return f, nil
}
