package nodecontroller

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

func TestNodesAreCompatibleIfTheDestinationHasWhatTheSourceHas(t *testing.T) {
	node := func(change func(*peerv1.Node)) *peerv1.Node {
		n := &peerv1.Node{Name: "n", Architecture: "amd64", Criu: "4.2.1", CpuFeatures: []string{"avx", "sse4_2"}}
		change(n)
		return n
	}
	same := node(func(*peerv1.Node) {})
	runs := func(r string) *peerv1.Node { return node(func(n *peerv1.Node) { n.OciRuntime = r }) }
	for _, c := range []struct {
		name     string
		from, to *peerv1.Node
		says     string
	}{
		{"the same", same, same, ""},
		{"newer CRIU", same, node(func(n *peerv1.Node) { n.Criu = "4.3" }), ""},
		{"newer major CRIU", same, node(func(n *peerv1.Node) { n.Criu = "5.0" }), ""},
		{"older patch of CRIU", same, node(func(n *peerv1.Node) { n.Criu = "4.2" }), ""},
		{"more CPU", same, node(func(n *peerv1.Node) { n.CpuFeatures = append(n.CpuFeatures, "avx2") }), ""},
		{"older CRIU", same, node(func(n *peerv1.Node) { n.Criu = "4.1.1" }), "install CRIU 4.2.1 or later on node n"},
		{"older major CRIU", same, node(func(n *peerv1.Node) { n.Criu = "3.19" }), "may not read"},
		{"no CRIU there", same, node(func(n *peerv1.Node) { n.Criu = "" }), "no working CRIU"},
		{"no CRIU here", node(func(n *peerv1.Node) { n.Criu = "" }), same, "no working CRIU"},
		{"unknown CRIU", same, node(func(n *peerv1.Node) { n.Criu = "recent" }), `unknown CRIU version: "recent"`},
		{"CRIU that is too old", node(func(n *peerv1.Node) { n.Criu = "3.16.1" }), same, "too old"},
		{"older CRIU here", node(func(n *peerv1.Node) { n.Criu, n.PageServerMessage = "3.19", 24 }), same, ""},
		{"CRIU that is not what it says", node(func(n *peerv1.Node) { n.PageServerMessage = 24 }), same, "not the released one"},
		{"runc", runs("runc"), runs("runc"), ""},
		{"an OCI runtime that is not known", same, runs("runc"), ""},
		{"crun there", same, runs("crun"), "cannot take part"},
		{"crun here", runs("crun"), same, "cannot take part"},
		{"nothing said", same, nil, "does not say"},
		{"another architecture", same, node(func(n *peerv1.Node) { n.Architecture = "arm64" }), "arm64"},
		{"less CPU", same, node(func(n *peerv1.Node) { n.CpuFeatures = []string{"sse4_2"} }), "lacks avx"},
	} {
		err := compatible(c.from, c.to)
		if c.says == "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: error %v, want ErrFailedPrecondition about %q", c.name, err, c.says)
		}
	}
}

func TestCPUFeaturesAreFound(t *testing.T) {
	if len(cpuFeatures()) == 0 {
		t.Error("this CPU has no instruction set at all")
	}
}

func TestOlderCRIUAtTheDestinationIsRefusedBeforeAnythingIsMade(t *testing.T) {
	c := newTestCluster(t)
	c.b.criu = "4.1.1"
	c.a.run()
	last, err := c.migrate(modeLive)
	if err != nil {
		t.Fatal(err)
	}
	if last.Result.GetSucceeded() || !strings.Contains(last.Result.GetError(), "node b cannot restore what node a dumps") || last.Destination != nil {
		t.Errorf("%v", last)
	}
	c.settled()
	c.check(false)
	if findings, err := c.a.daemon.checkPeer(context.Background(), "b"); err != nil || !strings.Contains(findings.Detail, "install CRIU 4.2.1 or later on node b") {
		t.Errorf("check says %+v, %v", findings, err)
	}
}
