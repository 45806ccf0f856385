package nodeinit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Run is PID 1 of a node; it returns only on failure. It reads the Spec from spec, which the host writes once everything
// outside is ready; if the host dies before, the read fails and the node with it. When all services with Notify are ready
// it writes "ready" to ready, or else what went wrong, and closes it.
func Run(spec io.ReadCloser, ready io.WriteCloser) error {
	s, err := start(spec)
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	fmt.Fprintln(os.Stderr, "node", s.Hostname, "starts its services")
	return supervise(s.Services, ready)
}

func start(spec io.ReadCloser) (Spec, error) {
	var s Spec
	if err := json.NewDecoder(spec).Decode(&s); err != nil {
		return s, fmt.Errorf("specification of the node: %w", err)
	}
	spec.Close()
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return s, fmt.Errorf("host name: %w", err)
	}
	if err := mountRoot(s); err != nil {
		return s, err
	}
	if err := enterSystemCgroup(s); err != nil {
		return s, err
	}
	if err := network(); err != nil {
		return s, err
	}
	if err := writeFiles(s); err != nil {
		return s, err
	}
	return s, nil
}

// network does what concerns no other node; addresses and routes come from the host.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	return connectionTable()
}

// connectionTable has pods get a table of connections of their own, as docs/install.md advises.
func connectionTable() error {
	f, err := os.OpenFile("/proc/sys/net/ipv4/tcp_child_ehash_entries", os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // before Linux 6.1
	}
	if err != nil {
		return fmt.Errorf("table of pods' connections: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString("16384"); err != nil {
		return fmt.Errorf("table of pods' connections: %w", err)
	}
	return nil
}

func writeFiles(s Spec) error {
	for _, f := range s.Files {
		if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
		_ = os.Remove(f.Path) // a symbolic link would be written through
		if err := os.WriteFile(f.Path, []byte(f.Content), os.FileMode(f.Mode)); err != nil {
			return fmt.Errorf("write %s: %w", f.Path, err)
		}
	}
	for path, to := range s.Links {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("link %s: %w", path, err)
		}
		_ = os.Remove(path)
		if err := os.Symlink(to, path); err != nil {
			return fmt.Errorf("link %s: %w", path, err)
		}
	}
	return nil
}
