package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// issueCertificate gives the node a certificate of the lab's own authority, made with the project's godwitctl: what an
// operator would do. Without that binary, which may not be built yet, there is none, and a later up makes it.
func (l *Lab) issueCertificate(ctx context.Context, s nodeState) error {
	if l.bare {
		return nil
	}
	out := filepath.Join(l.dataDir(s.Name), "pki")
	if _, err := os.Stat(filepath.Join(out, "node.crt")); err == nil {
		return nil
	}
	ctl := filepath.Join(l.bin, "godwitctl")
	if _, err := os.Stat(ctl); errors.Is(err, fs.ErrNotExist) {
		l.log.Warn("no certificate: godwitctl is not built", "node", s.Name)
		return nil
	}
	// Nodes are built at the same time, and share one authority.
	release, err := flock(ctx, filepath.Join(l.state, "pki.lock"))
	if err != nil {
		return err
	}
	defer release()
	if _, err := os.Stat(filepath.Join(l.pkiDir(), "ca.crt")); err != nil {
		if err := godwitctl(ctx, ctl, "pki", "init", "--dir", l.pkiDir()); err != nil {
			return err
		}
	}
	return godwitctl(ctx, ctl, "pki", "issue", "--dir", l.pkiDir(), "--name", s.Name, "--ip", l.nodeAddr(s.Index).String(), "--out", out)
}

func godwitctl(ctx context.Context, binary string, args ...string) error {
	if out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("godwitctl %s: %w: %s", strings.Join(args[:2], " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
