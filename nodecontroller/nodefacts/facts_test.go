package nodefacts

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
	"godwit.dev/godwit/nodecontroller/preflight"
)

func sample() Facts {
	return New(
		&peerv1.Node{Name: "a", Version: "v1", Architecture: "amd64", Kernel: "6.18.1", Criu: "4.2.1", PageServerMessage: 32, Runc: "1.3.6", OciRuntime: "runc", CpuFeatures: []string{"avx", "sse2"}},
		[]preflight.Finding{{Feature: "kernel", Status: preflight.OK, Detail: "6.18.1"}, {Feature: "shim", Status: preflight.Missing, Detail: "not there", Remedy: "Install it."}},
	)
}

func TestFactsAreReadAsTheyWereWritten(t *testing.T) {
	f := sample()
	text, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil || !reflect.DeepEqual(got, f) {
		t.Errorf("read %+v, %v; wrote %+v", got, err, f)
	}
	if again, err := got.Encode(); err != nil || again != text {
		t.Errorf("the same facts are another text: %s, %v", again, err)
	}
	if lacking := got.Lacking(); len(lacking) != 1 || lacking[0].Feature != "shim" {
		t.Errorf("lacking %+v", lacking)
	}
	if p := got.Peer(); p.Name != "a" || p.Criu != "4.2.1" || p.PageServerMessage != 32 || len(p.CpuFeatures) != 2 {
		t.Errorf("as a peer: %v", p)
	}
}

func TestFactsThatAreTooLongAreNotWritten(t *testing.T) {
	f := sample()
	f.Kernel = strings.Repeat("x", maxSize)
	if _, err := f.Encode(); err == nil {
		t.Error("written")
	}
}

func TestANodeTellsOnlyItsOwnFacts(t *testing.T) {
	text, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	node := func(name, annotation string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{Annotation: annotation}}}
	}
	if _, there, err := Of(&corev1.Node{}); there || err != nil {
		t.Errorf("a node without Godwit: %v, %v", there, err)
	}
	if f, there, err := Of(node("a", text)); !there || err != nil || f.CRIU != "4.2.1" {
		t.Errorf("its own: %v, %v, %v", f, there, err)
	}
	for _, n := range []*corev1.Node{node("b", text), node("a", "{"), node("a", "{}"), node("a", strings.Repeat(" ", maxSize+1))} {
		if _, _, err := Of(n); !errors.Is(err, ErrMalformed) {
			t.Errorf("node %s, %.20q: %v, want ErrMalformed", n.Name, n.Annotations[Annotation], err)
		}
	}
}

func TestAnOlderKernelIsAWarning(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     preflight.Status
	}{
		{"6.18.1", "6.18.1", preflight.OK},
		{"6.18.1", "6.19.0", preflight.OK},
		{"6.18.1", "7.0", preflight.OK},
		{"6.18.1", "6.7.12-cloud", preflight.Warning},
		{"6.18.1", "5.19", preflight.Warning},
		{"6.18.1", "", preflight.OK},
	} {
		if f := compareKernel(&peerv1.Node{Kernel: c.from}, &peerv1.Node{Kernel: c.to}); f.Status != c.want {
			t.Errorf("from %s to %s: %v", c.from, c.to, f)
		}
	}
}

func FuzzDecode(f *testing.F) {
	text, err := sample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(`{"node":"a","architecture":"x","findings":[{}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		facts, err := Decode(s)
		if err != nil {
			return
		}
		if facts.Node == "" {
			t.Error("facts of no node")
		}
		for _, g := range Compare(facts.Peer(), sample().Peer()) {
			if g.Feature == "" || g.Status == "" {
				t.Errorf("%+v", g)
			}
		}
	})
}
