package nodecontroller

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"godwit.dev/godwit/cri"
	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// testKubernetes stands for a cluster: its kubelets make and remove what a
// migration's orchestrator asks for.
type testKubernetes struct{ c *testCluster }

func (k testKubernetes) call(name string, do func() error) error {
	if err := k.c.interposed("cluster."+name, false); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return k.c.interposed("cluster."+name, true)
}

func (k testKubernetes) MakePod(_ context.Context, migration string) error {
	return k.call("MakePod", func() error {
		k.c.b.newDestination(migration)
		return nil
	})
}

func (k testKubernetes) Await(context.Context, string) error {
	return k.call("Await", func() error { return nil })
}

func (k testKubernetes) Quiet(context.Context, string) error {
	return k.call("Quiet", func() error { return nil })
}

func (k testKubernetes) Agree(context.Context, string) error {
	return k.call("Agree", func() error { return nil })
}

func (k testKubernetes) RemoveSource(ctx context.Context, _ string) error {
	return k.call("RemoveSource", func() error {
		if p := k.c.a.only(); p != nil {
			return k.c.a.Remove(ctx, p.id)
		}
		return nil
	})
}

func (k testKubernetes) Lost(_ context.Context, _ string, why error) error {
	return k.call("Lost", func() error {
		k.c.mu.Lock()
		defer k.c.mu.Unlock()
		k.c.lost = append(k.c.lost, why)
		return nil
	})
}

// newKubernetes is a cluster with a pod on node a.
func newKubernetes(t *testing.T) (*testCluster, *testPod) {
	c := newTestCluster(t)
	c.orchestrator = testKubernetes{c}
	for _, n := range []*testNode{c.a, c.b} {
		n.daemon.SetRecoveredOrchestrator(func(string) Orchestrator { return c.orchestrator })
	}
	return c, c.a.run()
}

func (c *testCluster) orchestrate(id string) (*Orchestrated, error) {
	return c.a.daemon.Orchestrate(context.Background(), &nodev1.MigrateRequest{Pod: "default/p", To: "b", Migration: id}, c.orchestrator)
}

// removePodOfB is what a cluster does about a destination that did not come to be.
func (c *testCluster) removePodOfB(t *testing.T) {
	t.Helper()
	p := c.b.only()
	if p == nil {
		return
	}
	p.mu.Lock()
	state, runs := p.state, p.runs
	p.mu.Unlock()
	if runs {
		t.Errorf("the destination's pod runs, its shim is at %v", state)
	}
	if err := c.b.Remove(context.Background(), p.id); err != nil {
		t.Error(err)
	}
}

func TestPodThatKubeletMakesMoves(t *testing.T) {
	c, _ := newKubernetes(t)
	o, err := c.orchestrate("m-test")
	if err != nil {
		t.Fatal(err)
	}
	if o.ID() != "m-test" {
		t.Errorf("called %s", o.ID())
	}
	var kinds []string
	var last *nodev1.Event
	_ = o.Events(t.Context(), func(e *nodev1.Event) error {
		if last = e; e.Kind != kindProgress {
			kinds = append(kinds, e.Kind)
		}
		return nil
	})
	if !last.GetResult().GetSucceeded() {
		t.Errorf("ended with %v", last)
	}
	want := "accepted preparing prepared started tracking place created converged freezing committed resumed cleaned ended"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("events %s\nwant   %s", got, want)
	}
	c.settled()
	c.check(true)
	c.checkFiles(t, true, aheadDir, movedDir)
	for _, d := range []*Daemon{c.a.daemon, c.b.daemon} {
		if m, ok := d.Migration("m-test"); !ok || m.EndedUnixNano == 0 || m.Phase != nodev1.Phase_PHASE_SUCCEEDED {
			t.Errorf("node %s: %v", d.NodeName(), m)
		}
	}
	if _, err := c.orchestrate("m-test"); err == nil || !strings.Contains(err.Error(), "known already") {
		t.Errorf("a second one of that name: %v", err)
	}
}

// As TestWhateverBreaksThePodRunsOnceWhereTheDecisionSays, where kubelet makes the pod.
func TestWhateverBreaksAPodThatKubeletMakesRunsOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("breaks 100 migrations")
	}
	calls := []string{
		"source.Begin", "cluster.MakePod", "destination.WaitParked", "source.SendFiles", "cluster.Await", "cluster.Quiet", "source.CutOver", "destination.Restore",
		"cluster.Agree", "source.Commit", "destination.Resume", "cluster.RemoveSource",
	}
	broken := errors.New("broken by the test")
	kinds := map[string]func(c *testCluster) error{
		"fails":            func(*testCluster) error { return broken },
		"source dies":      func(c *testCluster) error { c.a.restart(); return broken },
		"destination dies": func(c *testCluster) error { c.b.restart(); return broken },
		"both daemons die": func(c *testCluster) error { c.a.restart(); c.b.restart(); return broken },
		"operator cancels": func(c *testCluster) error { c.a.cancelAll(); return nil },
	}
	for _, call := range calls {
		for kind, do := range kinds {
			for _, after := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s, after it %v", kind, call, after), func(t *testing.T) {
					t.Parallel()
					breakKubelet(t, fault{call: call, after: after, do: do})
				})
			}
		}
	}
}

func breakKubelet(t *testing.T, f fault) {
	c, source := newKubernetes(t)
	c.fault = &f
	o, err := c.orchestrate("m-broken")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	c.awaitStruck()
	c.settled()
	source.mu.Lock()
	committed := source.state == shimv1.State_STATE_COMMITTED
	source.mu.Unlock()
	if !committed {
		c.removePodOfB(t)
	}
	c.check(committed)
	c.checkFiles(t, committed, aheadDir, movedDir)
	if m, ok := c.a.daemon.Migration("m-broken"); ok && m.Result.GetSucceeded() != committed {
		t.Errorf("committed %v, the daemon says %v", committed, m)
	}
}

func TestClusterThatDoesNotAgreeKeepsTheSource(t *testing.T) {
	c, _ := newKubernetes(t)
	why := errors.New("somebody cancelled it first")
	c.fault = &fault{call: "cluster.Agree", do: func(*testCluster) error { return why }}
	o, err := c.orchestrate("")
	if err != nil {
		t.Fatal(err)
	}
	c.awaitEnd(o)
	if r := o.Migration().Result; r.GetSucceeded() || !strings.Contains(r.GetError(), why.Error()) {
		t.Errorf("ended with %v", r)
	}
	c.settled()
	c.removePodOfB(t)
	c.check(false)
}

func TestShimOfASourceOfKubeletsDiesInTheDecision(t *testing.T) {
	for _, agrees := range []bool{true, false} {
		c, source := newKubernetes(t)
		c.fault = &fault{call: "source.Commit", do: func(c *testCluster) error {
			if !agrees {
				c.mu.Lock()
				c.fault, c.struck = &fault{call: "cluster.Agree", do: func(*testCluster) error { return errors.New("no") }}, make(chan struct{})
				c.mu.Unlock()
			}
			source.kill()
			return errors.New("killed")
		}}
		o, err := c.orchestrate("")
		if err != nil {
			t.Fatal(err)
		}
		c.awaitEnd(o)
		c.settled()
		if got := o.Migration().Result.GetSucceeded(); got != agrees {
			t.Errorf("the cluster agrees %v: %v", agrees, o.Migration().Result)
		}
		if (c.a.only() == nil) != agrees {
			t.Errorf("the cluster agrees %v, its pod on the source is gone: %v", agrees, c.a.only() == nil)
		}
	}
}

func TestRecoveredMigrationWaitsForItsOrchestrator(t *testing.T) {
	c, _ := newKubernetes(t)
	o := c.orchestrator
	c.orchestrator = nil
	c.fault = &fault{call: "cluster.RemoveSource", do: func(c *testCluster) error {
		c.a.restart()
		return errors.New("dead")
	}}
	begun, err := c.a.daemon.Orchestrate(t.Context(), &nodev1.MigrateRequest{Pod: "p", To: "b", Migration: "m-1"}, o)
	if err != nil {
		t.Fatal(err)
	}
	<-begun.Done()
	c.a.restarts.Wait()
	m, ok := c.a.daemon.Migration("m-1")
	if !ok || m.EndedUnixNano != 0 || m.Phase != nodev1.Phase_PHASE_MIGRATION_COMPLETE {
		t.Errorf("without an orchestrator: %v", m)
	}
	c.a.daemon.SetRecoveredOrchestrator(func(string) Orchestrator { return o })
	c.settled()
	c.check(true)
}

func TestAPodIsPlacedWhenTheShimSaysSo(t *testing.T) {
	rounds := shimv1.State_STATE_ROUNDS
	for _, k := range []struct {
		name string
		p    *shimv1.Progress
		want bool
	}{
		{"not yet", &shimv1.Progress{State: rounds, Round: 1, AwaitsFiles: true}, false},
		{"little is to come", &shimv1.Progress{State: rounds, PlacePod: true}, true},
		{"converged", &shimv1.Progress{State: shimv1.State_STATE_CONVERGED}, true},
		{"broken off", &shimv1.Progress{State: shimv1.State_STATE_ABORTED, PlacePod: true}, false},
		{"failed", &shimv1.Progress{State: shimv1.State_STATE_FAILED, PlacePod: true}, false},
		{"not begun", &shimv1.Progress{}, false},
	} {
		if got := toPlace(k.p); got != k.want {
			t.Errorf("%s: %v", k.name, got)
		}
	}
}

// kubeletsPod is a pod of containers named first and second, as kubelet makes it.
func kubeletsPod(change func(*cri.Pod)) []cri.Pod {
	container := func(name string) cri.PodContainer {
		return cri.PodContainer{ID: "id-" + name, Name: name, Image: testImage, State: runtimev1.ContainerState_CONTAINER_RUNNING}
	}
	p := cri.Pod{ID: "new", Namespace: "shop", Name: "cart-x", Handler: cri.Handler, Ready: true,
		Annotations: map[string]string{annotation: "m-1"}, Containers: []cri.PodContainer{container("first"), container("second")}}
	change(&p)
	other := p
	other.ID, other.Annotations = "other", map[string]string{annotation: "m-2"}
	return []cri.Pod{other, p}
}

func TestPodOfKubeletsIsRecognised(t *testing.T) {
	d := &cri.Description{Sandbox: &runtimev1.PodSandboxConfig{Metadata: &runtimev1.PodSandboxMetadata{Namespace: "shop", Name: "cart"}}}
	for _, name := range []string{"second", "first"} {
		d.Containers = append(d.Containers, cri.ContainerDescription{Image: testImage, Config: &runtimev1.ContainerConfig{Metadata: &runtimev1.ContainerMetadata{Name: name}}})
	}
	for _, k := range []struct {
		name   string
		change func(*cri.Pod)
		found  bool
		says   string
	}{
		{"as it should be", func(*cri.Pod) {}, true, ""},
		{"the last container is made and not started", func(p *cri.Pod) { p.Containers[1].State = runtimev1.ContainerState_CONTAINER_CREATED }, true, ""},
		{"a container is missing", func(p *cri.Pod) { p.Containers = p.Containers[:1] }, false, ""},
		{"a container has exited", func(p *cri.Pod) { p.Containers[0].State = runtimev1.ContainerState_CONTAINER_EXITED }, false, ""},
		{"of another namespace", func(p *cri.Pod) { p.Namespace = "evil" }, false, ""},
		{"of another migration", func(p *cri.Pod) { p.Annotations = map[string]string{annotation: "m-3"} }, false, ""},
		{"not ready", func(p *cri.Pod) { p.Ready = false }, false, ""},
		{"of another runtime", func(p *cri.Pod) { p.Handler = "" }, false, "runtime handler"},
		{"of another image", func(p *cri.Pod) { p.Containers[1].Image = "sha256:other" }, false, "container second is of image sha256:other here"},
		{"with one container more", func(p *cri.Pod) {
			p.Containers = append(p.Containers, cri.PodContainer{Name: "third", State: runtimev1.ContainerState_CONTAINER_RUNNING})
		}, false, "container third does not run at the source"},
		{"with one that has ended", func(p *cri.Pod) {
			p.Containers = append(p.Containers, cri.PodContainer{Name: "init", State: runtimev1.ContainerState_CONTAINER_EXITED})
		}, true, ""},
	} {
		made, found, err := matchPod(d, "m-1", kubeletsPod(k.change))
		if found != k.found || (err == nil) != (k.says == "") || err != nil && !strings.Contains(err.Error(), k.says) {
			t.Errorf("%s: found %v, %v", k.name, found, err)
		}
		if found && (made.Sandbox != "new" || strings.Join(made.Containers, " ") != "id-second id-first") {
			t.Errorf("%s: %+v", k.name, made)
		}
	}
}

func TestAdmissionOfAKubeletsPodClosesWithTheAbort(t *testing.T) {
	j := testJournal(t)
	r := testRecord("m-1", destinationPrepared)
	r.Admission = shimv1.Admission{AnswerEarly: true, ExpectedContainers: 2}
	for _, closed := range []bool{false, true} {
		r.Closed = closed
		if err := j.save(r, throughCrash); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{j.admit, j.dir} { // one may be the other
			b, err := os.ReadFile(filepath.Join(dir, "m-1.json"))
			if err != nil {
				t.Fatal(err)
			}
			if a, err := shimv1.DecodeAdmission(b); err != nil || a != r.Admission {
				t.Errorf("%s: %+v, %v", dir, a, err)
			}
		}
	}
}

// fixedPeer knows one node.
type fixedPeer struct{ name, address string }

func (f fixedPeer) Address(node string) (string, error) {
	if node != f.name {
		return "", ErrUnknownPeer
	}
	return f.address, nil
}

func TestPeersThatTheFileDoesNotNameAreResolved(t *testing.T) {
	d := &Daemon{peers: newPeerTable("/nowhere", &Config{Peers: map[string]string{"b": "192.0.2.2:7440"}}, nil)}
	d.SetPeerResolver(fixedPeer{"c", "192.0.2.3:7440"})
	for name, want := range map[string]string{"b": "192.0.2.2:7440", "c": "192.0.2.3:7440", "d": ""} {
		got, err := d.peers.lookup(name)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrUnknownPeer) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
