package kubectl

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/cli"
	"godwit.dev/godwit/nodecontroller/nodefacts"
	"godwit.dev/godwit/nodecontroller/preflight"
)

func facts(name string, cpu []string, found ...preflight.Finding) nodefacts.Facts {
	return nodefacts.New(&peerv1.Node{Name: name, Version: "v1", Architecture: "amd64", Kernel: "6.18.1", Criu: "4.2.1", CpuFeatures: cpu}, found)
}

func TestTwoNodesAreComparedInWhatTheyMustAgreeOn(t *testing.T) {
	missing := preflight.Finding{Feature: "shim", Status: preflight.Missing, Detail: "not there", Remedy: "Install it."}
	for _, c := range []struct {
		name     string
		from, to nodefacts.Facts
		code     int
		says     string
	}{
		{"the same", facts("a", []string{"avx"}), facts("b", []string{"avx", "avx2"}), cli.ExitOK, "CRIU"},
		{"an older CPU", facts("a", []string{"avx", "avx2"}), facts("b", []string{"avx"}), cli.ExitMissing, "the CPU of node b lacks avx2 of node a"},
		{"something missing there", facts("a", nil), facts("b", nil, missing), cli.ExitMissing, "b: shim"},
	} {
		var out bytes.Buffer
		err := new(app).printFindings(&out, compare(c.from, c.to))
		if code := cli.Finish("test", err); code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.name, code, c.code)
		}
		if !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %q is not said:\n%s", c.name, c.says, &out)
		}
	}
}

func TestNodesAreListedWithWhatKeepsThemFromMoving(t *testing.T) {
	node := func(name string, is corev1.ConditionStatus, f *nodefacts.Facts) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: is}}
		if f != nil {
			text, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			n.Annotations = map[string]string{nodefacts.Annotation: text}
		}
		return n
	}
	a, c := facts("a", nil), facts("c", nil, preflight.Finding{Feature: "CRIU", Status: preflight.Missing, Detail: "not installed"})
	var out bytes.Buffer
	if err := printNodes(&out, []nodeLine{
		line(node("a", corev1.ConditionTrue, &a)), line(node("b", corev1.ConditionTrue, nil)), line(node("c", corev1.ConditionUnknown, &c)), line(node("d", corev1.ConditionTrue, &a)),
	}); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	for i, want := range []string{"READY", "yes", "no: no Godwit", "no: the node is not Ready; CRIU: not installed", "those of node a"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("%q is not in %q", want, lines[i])
		}
	}
}
