package nodecontroller

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"godwit.dev/godwit/filetree"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// What is in the root file system of a test's pod that has moved: it was sent when the pod
// was frozen, and, where kubelet makes the pod, before there was one.
const movedDir, aheadDir = "moved", "ahead"

// sendAhead sends what a shim sends of files before there is a pod.
func (p *testPod) sendAhead(ctx context.Context, r *shimv1.BeginRequest) error {
	if !r.FilesLater {
		return nil
	}
	if err := p.sendFiles(aheadDir, false); err != nil {
		return err
	}
	return p.session.Flush(ctx)
}

// sendFiles sends a directory of the root file system.
func (p *testPod) sendFiles(name string, frozen bool) error {
	var b []byte
	p.syncs++
	for _, r := range []filetree.Record{
		{Type: filetree.TypeDir, Path: name, Meta: filetree.Meta{UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Mode: 0o700}},
		{Type: filetree.TypeEnd, Sync: p.syncs, Count: 1, Frozen: frozen},
	} {
		var err error
		if b, err = filetree.AppendRecord(b, r); err != nil {
			return err
		}
	}
	return p.session.Stream(0).Blob(shimv1.Channel(0, shimv1.TreeRootfs), b)
}

// checkFiles sees that a pod that has moved has its files, and that no node keeps any.
func (c *testCluster) checkFiles(t *testing.T, committed bool, names ...string) {
	t.Helper()
	for _, n := range []*testNode{c.a, c.b} {
		if left, _ := filepath.Glob(filepath.Join(n.state, spoolDir, "*")); len(left) > 0 {
			t.Errorf("node %s keeps %v", n.name, left)
		}
	}
	for _, name := range names {
		if !committed {
			return
		}
		if _, err := os.Stat(filepath.Join(c.rootfs(c.b.only().id), name)); err != nil {
			t.Errorf("its files: %v", err)
		}
	}
}
