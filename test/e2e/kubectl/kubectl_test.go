package kubectl

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/preflight"
	"godwit.dev/godwit/test/lab"
)

const (
	definition = "../../../contrib/kubernetes/crd/godwit.dev_podmigrations.yaml"
	// objects are two nodes that are only names, and a pod that none of them will run.
	objects = `
apiVersion: v1
kind: Node
metadata: {name: ` + source + `}
---
apiVersion: v1
kind: Node
metadata: {name: ` + destination + `}
---
apiVersion: v1
kind: Pod
metadata: {name: cache, namespace: default}
spec:
  nodeName: ` + source + `
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: localhost/none, imagePullPolicy: Never}]
`
)

func TestClusterIsAskedByKubectlsPlugin(t *testing.T) {
	c := upCluster(t)
	c.must("", "delete", "--ignore-not-found", "customresourcedefinition", "podmigrations.godwit.dev")
	c.refused(cli.ExitRefused, "Godwit is not installed in it", "list")

	c.must("", "apply", "-f", definition)
	c.must("", "wait", "--for=condition=Established", "customresourcedefinition/podmigrations.godwit.dev", "--timeout=170s")
	c.must(objects, "apply", "-f", "-")
	for _, part := range []struct {
		name string
		do   func(*testing.T, *cluster)
	}{
		{"what cannot be is refused in words", testRefusals},
		{"a migration is made, listed, described and cancelled", testMakeAndCancel},
		{"a wait shows progress until the end", testWait},
		{"an interrupt cancels, and a second one leaves", testInterrupts},
		{"a wait outlives the API server", testAPIServerGone},
		{"nodes are compared by what they tell", testCheck},
	} {
		t.Run(part.name, func(t *testing.T) {
			mine := *c
			mine.t = t
			part.do(t, &mine)
		})
	}
}

func testRefusals(t *testing.T, c *cluster) {
	c.refused(cli.ExitUsage, "accepts 1 arg", "migrate")
	c.refused(cli.ExitUsage, "none of live, cold", "migrate", "cache", "--mode", "warm")
	c.refused(cli.ExitUsage, "no amount of bytes", "migrate", "cache", "--bandwidth", "bananas")
	c.refused(cli.ExitRefused, "there is no pod teapot in namespace default", "migrate", "teapot")
	c.refused(cli.ExitRefused, "there is no node nowhere", "migrate", "cache", "--to", "nowhere")
	c.refused(cli.ExitRefused, "is on node "+source+" already", "migrate", "cache", "--to", source)
	c.refused(cli.ExitRefused, "is refused: mode Cold has no use for a tracker: leave it out\n", "migrate", "cache", "--mode", "cold", "--tracker", "soft-dirty")
	c.refused(cli.ExitRefused, "is refused: mode Live needs a tracker", "migrate", "cache", "--mode", "live", "--tracker", "none")
	c.refused(cli.ExitRefused, "maxRounds", "migrate", "cache", "--max-rounds", "100000")
	c.refused(cli.ExitRefused, "there is none of that name", "describe", "nothing")
	c.refused(cli.ExitRefused, "there is none of that name", "cancel", "nothing")
	c.refused(cli.ExitFailure, "no such file", "list", "--kubeconfig", "/nonexistent")
	if out := c.done("list", "--json"); !strings.Contains(out, `"items":[]`) {
		t.Errorf("refused migrations were made: %s", out)
	}
}

func testMakeAndCancel(t *testing.T, c *cluster) {
	m := decode[v1alpha1.PodMigration](t, c.done("migrate", "pod/cache", "--to", destination, "--json",
		"--max-rounds", "5", "--max-time", "30s", "--dirty-limit", "4Mi", "--timeout", "10m", "--bandwidth", "100Mi", "--compression", "zstd", "--keep-source-on-failure=false"))
	if m.Kind != "PodMigration" || !strings.HasPrefix(m.Name, "cache-") || m.ManagedFields != nil {
		t.Errorf("printed %+v", m)
	}
	s := c.get(m.Name).Spec
	if s.TargetNode != destination || s.PreCopy.MaxRounds != 5 || s.PreCopy.MaxDuration.Duration != 30*time.Second || s.PreCopy.DirtyLimit.Value() != 4<<20 ||
		s.Timeout.Duration != 10*time.Minute || s.Bandwidth.Value() != 100<<20 || s.Compression != v1alpha1.CompressionZstd || *s.KeepSourceOnFailure ||
		s.Mode != v1alpha1.ModeLive || s.Tracker != v1alpha1.TrackerAuto {
		t.Errorf("made %+v", s)
	}
	c.play(m.Name, func(s *v1alpha1.PodMigrationStatus) {
		s.Phase, s.Message = v1alpha1.PhasePreparing, "asking for room"
	})
	if out := strings.Join(strings.Fields(c.done("list", "-A")), " "); !strings.Contains(out, "default "+m.Name+" cache "+source+" "+destination+" Preparing") {
		t.Errorf("list: %s", out)
	}
	if out := c.done("list", "-n", "kube-system"); strings.Contains(out, m.Name) {
		t.Errorf("list of another namespace: %s", out)
	}
	c.must(`{apiVersion: v1, kind: Event, metadata: {generateName: told-, namespace: default}, reason: Prepared, type: Normal, message: takes it in,
	  involvedObject: {apiVersion: godwit.dev/v1alpha1, kind: PodMigration, name: `+m.Name+`, namespace: default, uid: `+string(m.UID)+`}}`, "create", "-f", "-")
	if out := c.done("describe", m.Name); !strings.Contains(out, "asking for room") || !strings.Contains(out, "at most 5 rounds") || !strings.Contains(out, "takes it in") {
		t.Errorf("describe: %s", out)
	}
	c.done("cancel", m.Name)
	if !c.get(m.Name).Spec.Cancel {
		t.Error("not cancelled")
	}
	c.play(m.Name, func(s *v1alpha1.PodMigrationStatus) { s.Phase = v1alpha1.PhaseCancelled })
	c.refused(cli.ExitRefused, "is over: Cancelled", "cancel", m.Name)
}

// begin starts a wait and returns the migration's name.
func begin(c *cluster, args ...string) (*waiter, string) {
	c.t.Helper()
	w := c.start(append([]string{"migrate", "cache", "--wait"}, args...)...)
	name := strings.Fields(w.until("podmigration "))[2]
	return w, name
}

func testWait(t *testing.T, c *cluster) {
	w, name := begin(c, "--to", destination)
	c.play(name, func(s *v1alpha1.PodMigrationStatus) {
		s.Phase, s.Message = v1alpha1.PhasePreparing, destination+" makes room"
	})
	w.until("Preparing: " + destination + " makes room")
	c.play(name, func(s *v1alpha1.PodMigrationStatus) {
		s.Phase, s.DestinationNode, s.Message, s.Engine = v1alpha1.PhaseMigrating, destination, "engine WriteProtect", "WriteProtect"
		s.MemoryBytes, s.BytesSent, s.Rate, s.DirtyRate = 1<<30, 300<<20, 500<<20, 20<<20
	})
	w.until("round 0: sent 300.0 MiB for 1.0 GiB of memory, 500.0 MiB/s, dirtied at 20.0 MiB/s")
	c.play(name, func(s *v1alpha1.PodMigrationStatus) {
		s.Phase, s.Message = v1alpha1.PhaseMigrationComplete, "committed"
	})
	w.until("MigrationComplete: committed")
	c.play(name, func(s *v1alpha1.PodMigrationStatus) {
		s.Phase, s.Message = v1alpha1.PhaseSucceeded, ""
		s.DestinationPod = &v1alpha1.PodReference{Name: "cache-abcde", IP: "192.0.2.7"}
		s.Rounds = []v1alpha1.Round{{Number: 0, DirtyPages: 262144, Bytes: 1 << 30, Duration: metav1.Duration{Duration: time.Second}}}
		s.Downtime, s.Total = &metav1.Duration{Duration: 228 * time.Millisecond}, &metav1.Duration{Duration: 4 * time.Second}
	})
	w.until("it is pod cache-abcde, address 192.0.2.7")
	w.until("total 4s, downtime 228ms")
	if code := w.end(); code != cli.ExitOK {
		t.Errorf("exit code %d: %s", code, &w.err)
	}

	w, name = begin(c, "--to", destination)
	c.play(name, func(s *v1alpha1.PodMigrationStatus) { s.Phase, s.Message = v1alpha1.PhaseFailed, "no room" })
	if code := w.end(); code != cli.ExitFailed || !strings.Contains(w.err.String(), "failed: no room") {
		t.Errorf("failed: exit code %d: %s", code, &w.err)
	}
	w, name = begin(c, "--to", destination)
	c.must("", "delete", "podmigration", name)
	if code := w.end(); code != cli.ExitFailure || !strings.Contains(w.err.String(), "was deleted") {
		t.Errorf("deleted: exit code %d: %s", code, &w.err)
	}
}

func testInterrupts(t *testing.T, c *cluster) {
	w, name := begin(c)
	c.play(name, func(s *v1alpha1.PodMigrationStatus) { s.Phase, s.Message = v1alpha1.PhaseMigrating, "rounds" })
	w.until("Migrating: rounds")
	interrupt(t, w)
	w.until("cancelling")
	c.must("", "wait", "--for=jsonpath={.spec.cancel}=true", "podmigration", name, "--timeout=170s")
	c.play(name, func(s *v1alpha1.PodMigrationStatus) { s.Phase, s.Message = v1alpha1.PhaseCancelled, "asked for" })
	if code := w.end(); code != cli.ExitCancelled {
		t.Errorf("exit code %d: %s", code, &w.err)
	}
	w, _ = begin(c)
	interrupt(t, w)
	w.until("cancelling")
	interrupt(t, w)
	if code := w.end(); code != cli.ExitLeft || !strings.Contains(w.err.String(), "the migration goes on") {
		t.Errorf("left: exit code %d: %s", code, &w.err)
	}
}

func interrupt(t *testing.T, w *waiter) {
	t.Helper()
	if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// testAPIServerGone kills the machine of the control plane under a wait and builds it again.
func testAPIServerGone(t *testing.T, c *cluster) {
	w, name := begin(c, "--to", destination)
	c.play(name, func(s *v1alpha1.PodMigrationStatus) { s.Phase, s.Message = v1alpha1.PhaseMigrating, "rounds" })
	w.until("Migrating: rounds")
	if err := unix.Kill(c.Control().PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the API server fails, asking it again")
	if _, err := lab.Up(t.Context(), lab.Options{Dir: labDir(), Bin: c.bin}); err != nil {
		t.Fatal(err)
	}
	c.play(name, func(s *v1alpha1.PodMigrationStatus) { s.Phase, s.Message = v1alpha1.PhaseSucceeded, "" })
	w.until("pod cache moved")
	if code := w.end(); code != cli.ExitOK {
		t.Errorf("exit code %d: %s", code, &w.err)
	}
}

func testCheck(t *testing.T, c *cluster) {
	c.refused(cli.ExitMissing, "says nothing about Godwit", "check", source)
	publish := func(node string, cpu ...string) {
		t.Helper()
		f := nodefacts.New(&peerv1.Node{Name: node, Version: "v1", Architecture: "amd64", Kernel: "6.18.1", Criu: "4.2.1", CpuFeatures: cpu},
			[]preflight.Finding{{Feature: "tmpfs", Status: preflight.OK, Detail: "can be mounted"}})
		for range 2 { // a second time changes nothing
			if err := nodefacts.Publish(t.Context(), c.user, node, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(source, "avx", "avx2")
	publish(destination, "avx")
	if out := c.done("check", source); !strings.Contains(out, "can be mounted") {
		t.Errorf("check %s: %s", source, out)
	}
	if s := c.godwit("check", source, destination); s.code != cli.ExitMissing || !strings.Contains(s.out, "lacks avx2 of node "+source) {
		t.Errorf("check of both: %+v", s)
	}
	if out := c.done("check", destination, source); !strings.Contains(out, "4.2.1") {
		t.Errorf("check of both, the other way: %s", out)
	}
	if out := c.done("check"); !strings.Contains(out, source) || !strings.Contains(out, "6.18.1") {
		t.Errorf("check of all: %s", out)
	}
	c.refused(cli.ExitRefused, "node nowhere", "check", "nowhere")
}
