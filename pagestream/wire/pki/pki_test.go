package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func issue(t *testing.T, node string, ips ...net.IP) (caDir, out string) {
	t.Helper()
	caDir, out = filepath.Join(t.TempDir(), "ca"), filepath.Join(t.TempDir(), "out")
	if err := Init(caDir); err != nil {
		t.Fatal(err)
	}
	if err := Issue(caDir, node, ips, out); err != nil {
		t.Fatal(err)
	}
	return caDir, out
}

func TestIssuedCertificateServesBothSidesUnderTheNodesName(t *testing.T) {
	_, out := issue(t, "node-1.example", net.IPv4(10, 0, 0, 1))
	pair, err := tls.LoadX509KeyPair(filepath.Join(out, NodeCertFile), filepath.Join(out, NodeKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if got := pair.Leaf.Subject.CommonName; got != "node-1.example" {
		t.Errorf("common name %q", got)
	}
	caPEM, err := os.ReadFile(filepath.Join(out, CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPEM)
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		for _, name := range []string{"node-1.example", "10.0.0.1"} {
			_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}})
			if err != nil {
				t.Errorf("use %d, name %s: %v", use, name, err)
			}
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "node-2"}); err == nil {
		t.Error("valid for another node")
	}
}

func TestPrivateKeysAreForTheOwnerOnly(t *testing.T) {
	caDir, out := issue(t, "a")
	for _, path := range []string{filepath.Join(caDir, CAKeyFile), filepath.Join(out, NodeKeyFile)} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
}

func TestInitNeverReplacesAnAuthority(t *testing.T) {
	caDir, _ := issue(t, "a")
	before, _ := os.ReadFile(filepath.Join(caDir, CAKeyFile))
	if err := Init(caDir); !errors.Is(err, ErrExists) {
		t.Errorf("Init = %v, want ErrExists", err)
	}
	after, _ := os.ReadFile(filepath.Join(caDir, CAKeyFile))
	if string(before) != string(after) {
		t.Error("the key was replaced")
	}
}

func TestIssueReplacesAnOldCertificateAndLeavesNoOtherFile(t *testing.T) {
	caDir, out := issue(t, "a")
	before, _ := os.ReadFile(filepath.Join(out, NodeCertFile))
	if err := Issue(caDir, "a", nil, out); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(filepath.Join(out, NodeCertFile))
	if string(before) == string(after) {
		t.Error("the certificate is the old one")
	}
	entries, _ := os.ReadDir(out)
	if len(entries) != 3 {
		t.Errorf("%d files, want 3: %v", len(entries), entries)
	}
}

func TestLoadCARefusesAKeyOfAnotherAuthority(t *testing.T) {
	one, _ := issue(t, "a")
	two, _ := issue(t, "a")
	key, _ := os.ReadFile(filepath.Join(two, CAKeyFile))
	if err := os.WriteFile(filepath.Join(one, CAKeyFile), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(one); err == nil {
		t.Error("accepted")
	}
}

func TestNodeNamesAreDNSSubdomains(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "node-1": true, "ip-10-0-0-1.region.example": true, "1": true,
		strings.Repeat("a", 63): true, strings.Repeat("a", 64): false,
		strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
		"": false, ".": false, "a.": false, "-a": false, "a-": false, "A": false,
		"a/b": false, "*": false, "a b": false, "../a": false, "a_b": false,
	} {
		if err := CheckNodeName(name); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %v", name, err, ok)
		} else if err != nil && !errors.Is(err, ErrNodeName) {
			t.Errorf("%q: %v does not wrap ErrNodeName", name, err)
		}
	}
}
