package wire

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream/wire/pki"
)

func TestUnusableCredentialsNameFileAndRemedy(t *testing.T) {
	c := newCluster(t)
	other := newCluster(t)
	copyFile := func(t *testing.T, from, to, name string) {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, spoil := range map[string]struct {
		do   func(t *testing.T, dir string)
		want []string
	}{
		"no key": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, nodeKeyFile)) },
			[]string{nodeKeyFile, "godwitctl pki"}},
		"no authority": {func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, caCertFile)) },
			[]string{caCertFile, "godwitctl pki"}},
		"key open to the group": {func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, nodeKeyFile), 0o640) },
			[]string{nodeKeyFile, "chmod 600"}},
		"key of another": {func(t *testing.T, dir string) { copyFile(t, other.dir("a"), dir, nodeKeyFile) },
			[]string{nodeKeyFile, "godwitctl pki"}},
		"authority of another": {func(t *testing.T, dir string) { copyFile(t, other.dir("a"), dir, caCertFile) },
			[]string{caCertFile, nodeCertFile, "godwitctl pki"}},
		"authority is no certificate": {func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, caCertFile), []byte("x"), 0o600) },
			[]string{caCertFile, "authority"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := c.dir("a")
			spoil.do(t, dir)
			_, err := LoadCredentials(dir)
			if !errors.Is(err, ErrCredentials) {
				t.Fatalf("%v, want ErrCredentials", err)
			}
			for _, want := range spoil.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not mention %q", err, want)
				}
			}
		})
	}
}

// serial is the serial number of the certificate in use.
func serial(c *Credentials) string { return c.identity().certificate.Leaf.SerialNumber.String() }

func TestRenewedCertificateIsTakenUp(t *testing.T) {
	c := newCluster(t)
	dir := c.dir("a")
	creds, err := LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := serial(creds)
	if err := pki.Issue(c.caDir, "a", []net.IP{net.IPv4(10, 1, 2, 3)}, dir); err != nil {
		t.Fatal(err)
	}
	if serial(creds) == old {
		t.Error("the old certificate is still in use")
	}
}

func TestCertificateThatDoesNotFitIsNotTakenUp(t *testing.T) {
	c := newCluster(t)
	dir := c.dir("a")
	creds, err := LoadCredentials(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := serial(creds)
	next := c.dir("a")
	move := func(name string) {
		if err := os.Rename(filepath.Join(next, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	move(nodeKeyFile) // half of a renewal
	if serial(creds) != old {
		t.Error("a new key was taken up with an old certificate")
	}
	move(nodeCertFile)
	if serial(creds) == old {
		t.Error("the whole pair was not taken up")
	}
	if err := pki.Issue(c.caDir, "z", nil, dir); err != nil {
		t.Fatal(err)
	}
	if creds.Node() != "a" {
		t.Errorf("the node has become %s", creds.Node())
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if creds.Node() != "a" {
		t.Error("the certificate went with its files")
	}
}
