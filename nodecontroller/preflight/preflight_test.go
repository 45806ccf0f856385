package preflight

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/cri"
	"godwit.dev/godwit/pagestream/criuversion"
	"godwit.dev/godwit/pagestream/track"
	"godwit.dev/godwit/pagestream/wire/pki"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// configured is a containerd that answers with what a test says.
type configured struct {
	runtimes map[string]cri.Runtime
	err      error
}

func (c configured) Version(context.Context) (string, error) { return "2.1.9", c.err }
func (c configured) Runtimes(context.Context) (map[string]cri.Runtime, error) {
	return c.runtimes, c.err
}

func TestHandlerIsFoundOnlyIfAnnotationsReachTheShim(t *testing.T) {
	handler := func(r cri.Runtime) map[string]cri.Runtime { return map[string]cri.Runtime{cri.Handler: r} }
	for _, c := range []struct {
		name string
		ctrd configured
		want Status
	}{
		{"as the drop-in has it", configured{runtimes: handler(cri.Runtime{Type: runtimeType, ContainerAnnotations: []string{"godwit.dev/*"}})}, OK},
		{"exactly the annotation", configured{runtimes: handler(cri.Runtime{Type: runtimeType, ContainerAnnotations: []string{shimv1.Annotation}})}, OK},
		{"no annotations", configured{runtimes: handler(cri.Runtime{Type: runtimeType})}, Missing},
		{"of the pod only", configured{runtimes: handler(cri.Runtime{Type: runtimeType, PodAnnotations: []string{"godwit.dev/*"}})}, Missing},
		{"others", configured{runtimes: handler(cri.Runtime{Type: runtimeType, ContainerAnnotations: []string{"example.com/*"}})}, Missing},
		{"another runtime", configured{runtimes: handler(cri.Runtime{Type: "io.containerd.runc.v2", ContainerAnnotations: []string{"*"}})}, Missing},
		{"no handler", configured{runtimes: map[string]cri.Runtime{"runc": {}}}, Missing},
		{"no containerd", configured{err: errors.New("refused")}, Missing},
	} {
		f := containerdHandler(context.Background(), &Node{CRI: c.ctrd})
		if len(f) != 1 || f[0].Status != c.want {
			t.Errorf("%s: %+v, want %s", c.name, f, c.want)
		}
	}
}

func TestCertificateIsWarnedOfBeforeItExpires(t *testing.T) {
	dir := t.TempDir()
	ca, out := filepath.Join(dir, "ca"), filepath.Join(dir, "a")
	if err := pki.Init(ca); err != nil {
		t.Fatal(err)
	}
	if err := pki.Issue(ca, "a", []net.IP{net.IPv4(192, 0, 2, 1)}, out); err != nil {
		t.Fatal(err)
	}
	expiry, err := firstExpiry(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		node Node
		want Status
	}{
		{"fresh", Node{Name: "a", PKIDir: out, Now: time.Now()}, OK},
		{"soon over", Node{Name: "a", PKIDir: out, Now: expiry.Add(-soon / 2)}, Warning},
		{"another node's", Node{Name: "b", PKIDir: out, Now: time.Now()}, Missing},
		{"not there", Node{Name: "a", PKIDir: dir, Now: time.Now()}, Missing},
	} {
		if f := certificates(context.Background(), &c.node); len(f) != 1 || f[0].Status != c.want {
			t.Errorf("%s: %+v, want %s", c.name, f, c.want)
		}
	}
}

func TestEveryProbeSaysSomethingAndWhatToDoAboutWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	findings := Run(context.Background(), &Node{Name: "a", PKIDir: dir, StateDir: dir, CRI: configured{err: errors.New("refused")}, Now: time.Now()})
	if len(findings) != len(probes) {
		t.Errorf("%d findings of %d probes", len(findings), len(probes))
	}
	for _, f := range findings {
		if f.Feature == "" || f.Detail == "" {
			t.Errorf("%+v says nothing", f)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("probes left %v", left)
	}
}

func TestTrackerThatAutoTakesIsToldWithItsReason(t *testing.T) {
	lacking := errors.New("lacking")
	for _, c := range []struct {
		name     string
		features track.Features
		want     Status
		says     string
	}{
		{"everything", track.Features{}, OK, "WriteProtect: the kernel has PAGEMAP_SCAN"},
		{"no write-protection", track.Features{WPAsync: lacking}, OK, "SoftDirty: "},
		{"nothing", track.Features{PagemapScan: lacking, SoftDirty: lacking}, Warning, "None: stop-and-copy"},
	} {
		if f := trackerFinding(c.features); len(f) != 1 || f[0].Status != c.want || !strings.HasPrefix(f[0].Detail, c.says) {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}

func TestGuardRegionsAreMissedWhereThereAreSome(t *testing.T) {
	untold := errors.New("not told")
	for _, c := range []struct {
		have   bool
		untold error
		want   Status
	}{{false, untold, OK}, {true, untold, Warning}, {true, nil, OK}} {
		if f := guardFinding(c.have, c.untold); len(f) != 1 || f[0].Status != c.want {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}

func TestASmallTableOfConnectionsIsAdvisedWhereTheNodesIsLarge(t *testing.T) {
	for _, c := range []struct {
		children, size int
		err            error
		advised        bool
	}{{0, 262144, nil, true}, {0, -262144, nil, true}, {0, 65536, nil, false}, {16384, 262144, nil, false}, {0, 0, os.ErrNotExist, false}} {
		f := tableFinding(c.children, c.size, c.err)
		if len(f) != 1 || f[0].Status != OK || (f[0].Remedy != "") != c.advised {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}

func TestCRIUIsJudgedByItsVersion(t *testing.T) {
	for _, c := range []struct {
		version string
		kernel  newness
		want    Status
	}{
		{"3.16.1", newness{}, Missing}, {"3.17.1", newness{}, OK}, {"3.19", newness{}, OK}, {"4.1.1", newness{}, OK}, {"4.2.1", newness{}, OK},
		{"4.0", newness{clocks: true}, Missing}, {"4.1.1", newness{clocks: true}, OK},
		{"4.1.1", newness{restricted: true, clocks: true}, Missing}, {"4.2", newness{restricted: true, clocks: true}, OK},
		{"4.3", newness{restricted: true, clocks: true}, Warning},
	} {
		v, err := criuversion.Parse(c.version)
		if err != nil {
			t.Fatal(err)
		}
		f := criuFinding("CRIU", v, c.kernel)
		if len(f) != 1 || f[0].Status != c.want || !strings.Contains(f[0].Detail, c.version) || (c.want == OK) != (f[0].Remedy == "") {
			t.Errorf("%+v: %+v", c, f)
		}
	}
}
