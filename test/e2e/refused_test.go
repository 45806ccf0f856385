package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/pace"
	"godwit.dev/godwit/test/workload"
)

const pkiDir = "/etc/godwit/pki"

// peerAddress is where a node's daemon listens for its peers.
func peerAddress(n *lab.Node) string { return n.Addr().String() + ":9440" }

// foreignPKI makes certificates for a node by another authority than the lab's.
func foreignPKI(t *testing.T, n *lab.Node) (dir string) {
	t.Helper()
	bin, err := lab.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir = filepath.Join(root, "node")
	for _, args := range [][]string{
		{"pki", "init", "--dir", filepath.Join(root, "ca")},
		{"pki", "issue", "--dir", filepath.Join(root, "ca"), "--name", n.Name, "--ip", n.Addr().String(), "--out", dir},
	} {
		if out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "godwitctl"), args...).CombinedOutput(); err != nil {
			t.Fatalf("godwitctl %s: %v: %s", args, err, out)
		}
	}
	return dir
}

// awaitDaemon waits until a daemon that was killed answers again.
func awaitDaemon(t *testing.T, n *lab.Node) {
	t.Helper()
	ctx := within(t, 30*time.Second)
	for {
		_, err := underWay(ctx, n)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Whoever has no certificate of the cluster gets nothing, and breaks nothing.
func TestANodeOfAnotherClusterIsRefused(t *testing.T) {
	a, b := nodes(t)
	p := program(t, a, workload.Ticker, workload.Port)
	before := settled(t, a, b)
	foreign := foreignPKI(t, a)
	own := t.TempDir()
	swap := func(from string) {
		for _, name := range []string{"ca.crt", "node.crt", "node.key"} {
			content, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(a.Path(filepath.Join(pkiDir, name)), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if !a.KillDaemon() {
			t.Fatal("no daemon on node a")
		}
		awaitDaemon(t, a)
	}
	if err := os.CopyFS(own, os.DirFS(a.Path(pkiDir))); err != nil {
		t.Fatal(err)
	}
	swap(foreign)
	restored := false
	t.Cleanup(func() {
		if !restored {
			swap(own)
		}
	})
	_, err := move.Do(within(t, moveTimeout), a, p.name, b.Name)
	if !errors.Is(err, move.ErrFailed) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a node with another authority's certificate moves a pod: %v", err)
	}
	p.check(workload.Port)
	swap(own)
	restored = true
	noMore(t, before, idle, a, b)
	p.moveTo(b)
	p.check(workload.Port)
}

// A node of the cluster that does not know a migration's token has no part in it, and does not disturb it.
func TestAWrongTokenIsRefused(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "token", Containers: []lab.ContainerSpec{redisContainer(t)}})
	w := startWriter(t, p, 20_000)
	ctx := within(t, moveTimeout)
	m, err := move.Start(ctx, a, p.name, b.Name, "--bandwidth", "10MiB", "--compression", "none")
	if err != nil {
		t.Fatal(err)
	}
	e, err := m.Await(ctx, "tracking")
	if err != nil {
		t.Fatal(err)
	}
	w.redis.AlsoAt(e.Destination.PodIP + ":" + redisPort)
	credentials, err := wire.LoadCredentials(a.Path(pkiDir))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, migration string
	}{
		{"wrong token", e.Migration},
		{"no such migration", "m-20200101-0000000000"},
	} {
		dial, cancel := context.WithTimeout(ctx, pace.Stretch(10*time.Second))
		s, err := wire.Dial(dial, wire.DialOptions{
			Address: peerAddress(b), ServerName: b.Name, Credentials: credentials,
			Migration: c.migration, Token: [32]byte{1, 2, 3}, Streams: 2,
		})
		cancel()
		if err == nil {
			s.Close()
			t.Errorf("%s: admitted", c.name)
		} else {
			t.Logf("%s: %v", c.name, err)
		}
	}
	r, err := m.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p.moved(b, r)
	w.awaitWrites(writeRate / 4)
	w.verify()
}

// What cannot be moved is refused by name before anything is made for a move, runs on, and moves once it has let go.
func TestAPodThatCannotBeMovedIsRefusedAtOnce(t *testing.T) {
	a, b := nodes(t)
	for what, says := range map[string]string{
		"io_uring":    "(undumpable) has an io_uring open",
		"vsock":       "(undumpable) has a socket of AF_VSOCK",
		"userfaultfd": "(undumpable) has userfaultfd open",
		"inotify":     "(undumpable) watches files of the container's image by inotify",
		"address":     "the pod's own address, which it does not keep",
	} {
		t.Run(what, func(t *testing.T) {
			p := program(t, a, workload.Undumpable, workload.Port, what)
			if p.check(workload.Port)["holds"] != what {
				t.Skip("this kernel has none")
			}
			before := settled(t, a, b)
			m, err := move.Start(within(t, moveTimeout), a, p.name, b.Name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = m.Wait(within(t, moveTimeout))
			if !errors.Is(err, move.ErrFailed) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "cannot be moved to node b: container undumpable, process ") {
				t.Fatalf("moved with %s: %v; want %q", what, err, says)
			}
			t.Log(err)
			if kinds := m.Kinds(); len(kinds) != 0 {
				t.Errorf("for a move that was refused there was done %v", kinds)
			}
			if now := p.check(workload.Port)["holds"]; now != what {
				t.Errorf("it holds %s, and held %s", now, what)
			}
			noMore(t, before, idle, a, b)
			p.ask(workload.Port, "let go")
			p.moveTo(b)
			p.check(workload.Port)
		})
	}
}

// What comes to hold it only while its memory is copied is found by CRIU: the pod stays where it is, and runs on.
func TestAPodThatCannotBeDumpedRunsOn(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "later", Containers: []lab.ContainerSpec{
		container(t, workload.Undumpable, workload.Port, "later"),
		container(t, workload.SharedPair, "7001", "16"), // memory that takes its time
	}})
	before := settled(t, a, b)
	ctx := within(t, moveTimeout)
	m, err := move.Start(ctx, a, p.name, b.Name, "--bandwidth", "8MiB", "--compression", "none")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Await(ctx, "tracking"); err != nil {
		t.Fatal(err)
	}
	p.ask(workload.Port, "take hold")
	if _, err := m.Wait(ctx); !errors.Is(err, move.ErrFailed) {
		t.Fatalf("a pod with an io_uring was moved: %v", err)
	} else {
		t.Log(err)
	}
	if now := p.check(workload.Port)["holds"]; now != "io_uring" {
		t.Errorf("it holds %s", now)
	}
	noMore(t, before, idle, a, b)
	p.ask(workload.Port, "let go")
	p.moveTo(b)
	p.check(workload.Port)
}
