package lab

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLabBecomesNoClusterUnderNodesThatRun(t *testing.T) {
	tests := map[string]struct {
		wanted, before string
		kept           int
		want           string
		refused        bool
	}{
		"a new lab without":                        {},
		"a new lab with":                           {wanted: "new", want: "new"},
		"a lab that is one, asked again":           {wanted: "new", before: "old", kept: 2, want: "old"},
		"a lab that is one, not asked":             {before: "old", kept: 2, want: "old"},
		"a lab that is one, of which nothing runs": {wanted: "new", before: "old", want: "new"},
		"the same, not asked":                      {before: "old", want: "old"},
		"nodes without":                            {wanted: "new", kept: 1, refused: true},
	}
	for name, tt := range tests {
		got, err := planKubernetes(tt.wanted, config{Kubernetes: tt.before}, tt.kept)
		if got != tt.want || (err != nil) != tt.refused {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tt.want)
		}
	}
}

func TestAddressesOfAClusterAreNobodyElses(t *testing.T) {
	l := layout{base: firstBase}
	services := l.serviceNetwork()
	for i := range MaxNodes {
		if l.podSubnet(i).Overlaps(services) {
			t.Fatalf("pods of node %d and services: %s, %s", i, l.podSubnet(i), services)
		}
		if l.nodeAddr(i) == l.apiServer().Addr() {
			t.Fatalf("node %d has the control plane's address", i)
		}
	}
	if !l.management().Contains(l.apiServer().Addr()) || !l.podNetwork().Contains(services.Addr()) {
		t.Errorf("the lab's networks do not hold %s and %s", l.apiServer(), services)
	}
}

func TestNoNodeTakesTheControlPlanesName(t *testing.T) {
	lo, err := newLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{layout: lo}
	if _, _, err := l.plan(Options{Names: []string{controlName}}); err == nil {
		t.Error("a node may be called so")
	}
}

func TestBuildOfKubernetesIsNamedByItsSource(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	key := func() string {
		t.Helper()
		key, version, err := kubernetesKey(dir)
		if err != nil || version != "v1.99.3" {
			t.Fatalf("version %q, %v", version, err)
		}
		return key
	}
	write("go.mod", "module x\n\nrequire (\n\tk8s.io/kubectl v0.0.0\n\tk8s.io/kubernetes v1.99.3\n)\n")
	write("main.go", "package main\n")
	first := key()
	write("main_test.go", "package main\n")
	write("README", "words\n")
	if key() != first {
		t.Error("what is not built changes the key")
	}
	for _, name := range []string{"main.go", "go.sum"} {
		before := key()
		write(name, "package main // changed\n")
		if key() == before {
			t.Errorf("another %s has the same key", name)
		}
	}
	if err := os.Remove(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := kubernetesKey(dir); err == nil {
		t.Error("a module without go.mod has a key")
	}
}

func TestSourceOfKubernetesIsFoundFromThisPackage(t *testing.T) {
	source, err := kubernetesSource("")
	if err != nil {
		t.Fatal(err)
	}
	if _, version, err := kubernetesKey(source); err != nil || !strings.HasPrefix(version, "v1.") {
		t.Errorf("version %q, %v", version, err)
	}
}

func TestWithoutSourceTheNewestBuildIsTaken(t *testing.T) {
	l := layout{cache: t.TempDir()}
	if dir, err := l.newestKubernetes(); err == nil {
		t.Fatalf("an empty cache has %s", dir)
	}
	for i, name := range []string{"new", "old", "half.tmp"} {
		dir := filepath.Join(l.kubernetesCache(), name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Duration(i) * time.Hour)
		if strings.HasSuffix(name, ".tmp") {
			at = time.Now().Add(time.Hour)
		}
		if err := os.Chtimes(dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if dir, err := l.newestKubernetes(); err != nil || filepath.Base(dir) != "new" {
		t.Errorf("took %s, %v", dir, err)
	}
}

func TestGivenProgramsAreTakenIfTheyAreAllThere(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(EnvKubernetes, dir)
	l := &Lab{layout: layout{cache: t.TempDir()}}
	for _, program := range kubernetesPrograms {
		if got, err := l.kubernetesBin(t.Context()); err == nil {
			t.Fatalf("took %s without %s", got, program)
		}
		if err := os.WriteFile(filepath.Join(dir, program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := l.kubernetesBin(t.Context()); err != nil || got != dir {
		t.Errorf("took %s, %v; want %s", got, err, dir)
	}
}

func TestAuthorityIsKeptAndAHalfWrittenOneMadeAgain(t *testing.T) {
	l := layout{id: "x", state: t.TempDir()}
	first, err := l.clusterAuthority()
	if err != nil {
		t.Fatal(err)
	}
	again, err := l.clusterAuthority()
	if err != nil || !again.cert.Equal(first.cert) || string(again.accounts) != string(first.accounts) {
		t.Errorf("it is another the second time: %v", err)
	}
	for _, name := range []string{"ca.crt", "ca.key", "sa.key"} {
		if err := os.WriteFile(filepath.Join(l.kubernetesDir(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		made, err := l.clusterAuthority()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := made.issue(subject{name: "x", usage: x509.ExtKeyUsageClientAuth}); err != nil {
			t.Errorf("after an empty %s: %v", name, err)
		}
	}
}

// TestMachinesOfAClusterTrustEachOther lets the certificates that are written for the machines prove who they are, over TLS.
func TestMachinesOfAClusterTrustEachOther(t *testing.T) {
	l := &Lab{layout: layout{id: "x", state: t.TempDir(), base: firstBase}}
	var err error
	if l.authority, err = l.clusterAuthority(); err != nil {
		t.Fatal(err)
	}
	control, err := l.controlFiles()
	if err != nil {
		t.Fatal(err)
	}
	worker, err := l.workerFiles(nodeState{Name: "a", Index: 3})
	if err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{}
	for i, f := range append(control, worker...) {
		dir := "control"
		if i >= len(control) {
			dir = "worker"
		}
		if strings.HasSuffix(f.Path, ".key") && f.Mode != 0o600 {
			t.Errorf("%s has mode %o", f.Path, f.Mode)
		}
		content[filepath.Join(dir, filepath.Base(f.Path))] = []byte(f.Content)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(content["worker/ca.crt"])
	for name, address := range map[string]string{"control/apiserver": l.apiServer().Addr().String(), "worker/kubelet": l.nodeAddr(3).String()} {
		if _, err := tls.X509KeyPair(content[name+".crt"], content[name+".key"]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		block, _ := pem.Decode(content[name+".crt"])
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: address}); err != nil {
			t.Errorf("%s at %s: %v", name, address, err)
		}
	}
	var kubelet struct {
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := json.Unmarshal(content["worker/kubelet.kubeconfig"], &kubelet); err != nil {
		t.Fatal(err)
	}
	client, err := tls.X509KeyPair(kubelet.Users[0].User.Cert, kubelet.Users[0].User.Key)
	if err != nil {
		t.Fatal(err)
	}
	if s := client.Leaf.Subject; s.CommonName != "system:node:a" || !slices.Equal(s.Organization, []string{"system:nodes"}) {
		t.Errorf("the kubelet is %s", s)
	}
	if _, err := client.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the kubelet's certificate: %v", err)
	}
}

func TestNodeIsReadyWhenItHasSaidSoSinceItWasBuilt(t *testing.T) {
	built := time.Now().UTC().Truncate(time.Second)
	ready := func(status string, at time.Time) string {
		return `{"status":{"conditions":[{"type":"DiskPressure","status":"False"},{"type":"Ready","status":"` + status +
			`","message":"why","lastHeartbeatTime":"` + at.Format(time.RFC3339) + `"}]}}`
	}
	tests := map[string]struct {
		answer string
		want   bool
	}{
		"not known":              {"", false},
		"nothing said":           {`{}`, false},
		"not ready":              {ready("False", built), false},
		"ready, before it died":  {ready("True", built.Add(-time.Second)), false},
		"ready in its own time":  {ready("True", built), true},
		"ready some time later":  {ready("True", built.Add(time.Hour)), true},
		"an answer of something": {`[]`, false},
	}
	for name, tt := range tests {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tt.answer == "" || r.URL.Path != "/api/v1/nodes/a" {
				w.WriteHeader(http.StatusNotFound)
			}
			w.Write([]byte(tt.answer))
		}))
		c := &apiClient{server: server.URL}
		if err := c.nodeReady(t.Context(), nodeState{Name: "a", Created: built}); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
		server.Close()
	}
}
