package e2e

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
)

// installCRIU puts another CRIU before the nodes' own in the search path, until the test has ended. What runs goes on with its own, as on a
// node that is upgraded: the shims of pods that are started from here on ask for the new one's version. In dir are the program, and libraries.
func installCRIU(t *testing.T, dir string, nodes ...*lab.Node) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		to := "/usr/lib"
		if f.Name() == "criu" {
			to = "/usr/local/sbin"
		}
		for _, n := range nodes {
			path := n.Path(filepath.Join(to, f.Name()))
			t.Cleanup(func() {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			})
			if err := os.WriteFile(path, content, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
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

// The nodes of a cluster get a new CRIU one after the other. CRIU 4.1 has the page server's messages of 24 bytes, 4.2 those of 32.
func TestPodsMoveByAnOlderCRIUAndToANewerOne(t *testing.T) {
	if credentialsRestricted(t) {
		t.Skip("CRIU 4.1 cannot dump the sockets of this kernel, 6.16 or later")
	}
	a, b := nodes(t)
	older, err := lab.OlderCRIU(t.Context(), lab.Options{Dir: labDir(), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		t.Fatal(err)
	}
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
		if out, err := a.Exec(t.Context(), "criu", "--version"); err != nil || !strings.Contains(string(out), "Version: 4.1") {
			t.Fatalf("%v: %s", err, out)
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
