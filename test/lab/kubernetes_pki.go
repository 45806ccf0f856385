package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// certificateLife is longer than any lab stands.
const certificateLife = 365 * 24 * time.Hour

// authority signs the certificates of one cluster: of servers and of clients, which Kubernetes knows by their subjects.
type authority struct {
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	certPEM []byte
	keyPEM  []byte
	// accounts is the key that service accounts' tokens are signed with.
	accounts []byte
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

// subject says whose certificate it is. Kubernetes takes the name for a user's and the organisation for a group's.
type subject struct {
	name, group string
	dns         []string
	addrs       []netip.Addr
	usage       x509.ExtKeyUsage
}

// clusterAuthority reads the cluster's authority, or makes it the first time. It stays until down: machines that are
// built again get certificates that the others know.
func (l layout) clusterAuthority() (*authority, error) {
	dir := l.kubernetesDir()
	if a, err := readAuthority(dir); err == nil {
		return a, nil
	}
	a, err := newAuthority("godwit-lab-" + l.id)
	if err != nil {
		return nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the cluster's authority: %w", err)
	}
	for name, content := range map[string][]byte{"ca.crt": a.certPEM, "ca.key": a.keyPEM, "sa.key": a.accounts} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("the cluster's authority: %w", err)
		}
	}
	return a, nil
}

// readAuthority fails where an up was killed while it wrote one.
func readAuthority(dir string) (*authority, error) {
	a := &authority{}
	for name, content := range map[string]*[]byte{"ca.crt": &a.certPEM, "ca.key": &a.keyPEM, "sa.key": &a.accounts} {
		var err error
		if *content, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	cert, _ := pem.Decode(a.certPEM)
	key, _ := pem.Decode(a.keyPEM)
	accounts, _ := pem.Decode(a.accounts)
	if cert == nil || key == nil || accounts == nil {
		return nil, errors.New("not whole")
	}
	var err1, err2 error
	a.cert, err1 = x509.ParseCertificate(cert.Bytes)
	a.key, err2 = x509.ParseECPrivateKey(key.Bytes)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return nil, errors.New("the key is another's")
	}
	return a, nil
}

func newAuthority(name string) (*authority, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	_, accounts, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
	}
	a := &authority{key: key, keyPEM: keyPEM, accounts: accounts}
	if a.certPEM, err = sign(template, template, &key.PublicKey, key); err != nil {
		return nil, err
	}
	block, _ := pem.Decode(a.certPEM)
	a.cert, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// issue makes a certificate for s with a new key.
func (a *authority) issue(s subject) (pair, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", s.name, err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: s.name}, DNSNames: s.dns, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{s.usage},
	}
	if s.group != "" {
		template.Subject.Organization = []string{s.group}
	}
	for _, addr := range s.addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	cert, err := sign(template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return pair{}, fmt.Errorf("certificate of %s: %w", s.name, err)
	}
	return pair{cert: cert, key: keyPEM}, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(certificateLife)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// kubeconfig is how a client of the API server finds it and proves who it is. JSON is YAML.
func (a *authority) kubeconfig(server string, s subject) ([]byte, error) {
	s.usage = x509.ExtKeyUsageClientAuth
	client, err := a.issue(s)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	b, err := json.MarshalIndent(object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "lab",
		"contexts":        []object{{"name": "lab", "context": object{"cluster": "lab", "user": s.name}}},
		"clusters":        []object{{"name": "lab", "cluster": object{"server": server, "certificate-authority-data": a.certPEM}}},
		"users":           []object{{"name": s.name, "user": object{"client-certificate-data": client.cert, "client-key-data": client.key}}},
	}, "", "  ")
	return append(b, '\n'), err
}
