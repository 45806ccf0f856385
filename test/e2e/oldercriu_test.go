package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
)

// useCRIU puts the CRIU that lab.EnvCRIU names in the place of the nodes' own.
func useCRIU(ctx context.Context, nodes ...*lab.Node) error {
	version := os.Getenv(lab.EnvCRIU)
	if version == "" {
		return nil
	}
	release, err := lab.FindCRIU(version)
	if err != nil {
		return err
	}
	dir, err := lab.OlderCRIU(ctx, lab.Options{Dir: labDir()}, release)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if _, err := placeCRIU(dir, "/usr/sbin", n); err != nil {
			return err
		}
		if err := isCRIU(ctx, version, n); err != nil {
			return err
		}
	}
	return nil
}

// isCRIU sees that a node has a version of CRIU.
func isCRIU(ctx context.Context, version string, n *lab.Node) error {
	out, err := n.Exec(ctx, "criu", "--version")
	if err != nil || !strings.Contains(string(out), "Version: "+version) {
		return fmt.Errorf("node %s has not CRIU %s: %w: %s", n.Name, version, err, out)
	}
	return nil
}

// installCRIU puts another CRIU before the nodes' own in the search path, until the test has ended. What runs goes on with its own, as on a
// node that is upgraded: the shims of pods that are started from here on ask for the new one's version. In dir are the program, and libraries.
func installCRIU(t *testing.T, dir string, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		placed, err := placeCRIU(dir, "/usr/local/sbin", n)
		t.Cleanup(func() {
			for _, path := range placed {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// placeCRIU copies the program to a directory of a node, and the libraries to where they are found.
func placeCRIU(dir, sbin string, n *lab.Node) (placed []string, err error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			return placed, err
		}
		to := "/usr/lib"
		if f.Name() == "criu" {
			to = sbin
		}
		path := n.Path(filepath.Join(to, f.Name()))
		if err := os.WriteFile(path+".new", content, 0o755); err != nil {
			return placed, err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return placed, err
		}
		placed = append(placed, path)
	}
	return placed, nil
}

// credentialsRestricted says whether the kernel refuses SO_PASSCRED to network sockets, for which CRIU up to 4.1 asks them all
// (criu/sockets.c, dump_socket_opts).
func credentialsRestricted(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED)
	return errors.Is(err, unix.EOPNOTSUPP)
}

// vdsoTooNew says whether the kernel's vDSO is laid out as CRIU up to 3.18 does not know it: data for the vDSO in areas of its own, [vvar_vclock],
// from 6.13 on (CRIU 3.17: criu/vdso.c, vdso_fill_self_size; "Unexpected rt vDSO area bounds").
func vdsoTooNew(t *testing.T) bool {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(maps), "[vvar_vclock]")
}

// The nodes of a cluster get a new CRIU one after the other. CRIU 4.1 has the page server's messages of 24 bytes, 4.2 those of 32; 3.17 calls no
// action scripts for runc.
func TestPodsMoveByAnOlderCRIUAndToANewerOne(t *testing.T) {
	if version := os.Getenv(lab.EnvCRIU); version != "" {
		t.Skipf("all tests of this run have CRIU %s", version)
	}
	if credentialsRestricted(t) {
		t.Skip("CRIU 4.1 cannot dump the sockets of this kernel, 6.16 or later")
	}
	a, b := nodes(t)
	for _, release := range lab.CRIUReleases {
		t.Run(release.Version, func(t *testing.T) {
			if release == lab.OldestCRIU && vdsoTooNew(t) {
				t.Skip("it does not know this kernel's vDSO")
			}
			older, err := lab.OlderCRIU(t.Context(), lab.Options{Dir: labDir(), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}, release)
			if err != nil {
				t.Fatal(err)
			}
			testOlderCRIU(t, older, release.Version, a, b)
		})
	}
}

// testOlderCRIU moves pods with the CRIU of a directory at one end and at both.
func testOlderCRIU(t *testing.T, older, version string, a, b *lab.Node) {
	moves := func(t *testing.T) {
		p := runPod(t, a, lab.PodSpec{Name: "upgraded", Containers: []lab.ContainerSpec{redisContainer(t)}})
		w := startWriter(t, p, keys(20_000))
		w.awaitWrites(writeRate / 2)
		w.follow(p, b)
		w.awaitWrites(writeRate / 2)
		w.verify()
	}
	t.Run("older at both ends", func(t *testing.T) {
		installCRIU(t, older, a, b)
		if err := isCRIU(t.Context(), version, a); err != nil {
			t.Fatal(err)
		}
		moves(t)
	})
	t.Run("older at the source", func(t *testing.T) {
		installCRIU(t, older, a)
		moves(t)
	})
	t.Run("older at the destination is refused", func(t *testing.T) {
		installCRIU(t, older, b)
		p := runPod(t, a, lab.PodSpec{Name: "stays", Containers: []lab.ContainerSpec{redisContainer(t)}})
		_, err := move.Do(within(t, moveTimeout), a, p.name, b.Name)
		if err == nil || !strings.Contains(err.Error(), "an older CRIU may not read the images of a newer one") {
			t.Fatalf("not refused: %v", err)
		}
		if now, err := a.FindPod(t.Context(), p.name); err != nil || now.State != "ready" {
			t.Fatalf("the pod does not run on: %v", err)
		}
	})
}
