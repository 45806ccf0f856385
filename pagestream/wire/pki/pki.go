// Package pki makes the certificate authority of a cluster of Godwit nodes and
// the certificates of its nodes, as files that package wire's LoadCredentials
// reads. It is for labs and for clusters without an authority of their own;
// any other authority will do whose certificates carry the node's name as
// common name and DNS name and may be used by clients and servers. Revocation
// and distribution are left to others.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// How long certificates hold. Clocks of nodes differ: a certificate is valid
// from an hour before it was made.
const (
	CAValidity   = 10 * 365 * 24 * time.Hour
	NodeValidity = 365 * 24 * time.Hour
	clockSkew    = time.Hour
)

// ErrNodeName is wrapped by the error about a name that no node can have.
var ErrNodeName = errors.New("not a node name")

// CA is a certificate authority with its private key.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority with the given common name, valid from now for
// CAValidity. Its key is ECDSA on P-256: what one side of a mutual handshake
// signs and verifies takes as long as with Ed25519, and every other authority
// and hardware module has it too.
func NewCA(commonName string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certificate authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(CAValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs nodes, no further authorities
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate authority's certificate: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// CertPEM is the authority's certificate, for ca.crt.
func (ca *CA) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// KeyPEM is the authority's private key in PKCS #8, for ca.key.
func (ca *CA) KeyPEM() ([]byte, error) { return keyPEM(ca.key) }

// Issue makes a key and a certificate for a node, valid for NodeValidity but
// not longer than the authority: common name and DNS name are the node's, the
// addresses become IP names (there may be none), and both the client and the
// server side may use it. An error wraps ErrNodeName if the name is none.
func (ca *CA) Issue(node string, ips []net.IP) (cert, key []byte, err error) {
	if err := CheckNodeName(node); err != nil {
		return nil, nil, err
	}
	nodeKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key of node %s: %w", node, err)
	}
	if cert, err = ca.Sign(nodeKey.Public(), node, ips, NodeValidity); err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(nodeKey)
	return cert, key, err
}

// Sign makes the certificate that Issue makes, for a key that the node has made
// itself, valid for the given time but not longer than the authority.
func (ca *CA) Sign(key crypto.PublicKey, node string, ips []net.IP, validity time.Duration) ([]byte, error) {
	if err := CheckNodeName(node); err != nil {
		return nil, err
	}
	cert, err := ca.sign(key, &x509.Certificate{
		Subject:     pkix.Name{CommonName: node},
		NotAfter:    time.Now().Add(validity),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{node},
		IPAddresses: ips,
	})
	if err != nil {
		return nil, fmt.Errorf("certificate of node %s: %w", node, err)
	}
	return cert, nil
}

// IssueServer makes a key and a certificate for a server that is no node, under
// its DNS names, valid for the given time. Being no client's, no node takes it
// for a peer's.
func (ca *CA) IssueServer(names []string, validity time.Duration) (cert, key []byte, err error) {
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key of server %q: %w", names, err)
	}
	cert, err = ca.sign(serverKey.Public(), &x509.Certificate{
		NotAfter:    time.Now().Add(validity),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of server %q: %w", names, err)
	}
	key, err = keyPEM(serverKey)
	return cert, key, err
}

// sign completes a certificate by what all have in common, and returns it in PEM.
func (ca *CA) sign(key crypto.PublicKey, c *x509.Certificate) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	c.SerialNumber, c.KeyUsage = serial, x509.KeyUsageDigitalSignature
	c.NotBefore = time.Now().Add(-clockSkew)
	if c.NotAfter.After(ca.cert.NotAfter) {
		c.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.cert, key, ca.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// CheckNodeName returns an error that wraps ErrNodeName unless the name is a
// DNS subdomain in lower case, as Kubernetes demands of a node's name
// (RFC 1123: labels of letters, digits and inner hyphens, 253 bytes in all).
func CheckNodeName(node string) error {
	if node == "" || len(node) > 253 {
		return fmt.Errorf("%q has %d bytes, 1 to 253 are allowed: %w", node, len(node), ErrNodeName)
	}
	for label := range strings.SplitSeq(node, ".") {
		if !isLabel(label) {
			return fmt.Errorf("%q: %q must be 1 to 63 lower-case letters, digits and inner hyphens: %w",
				node, label, ErrNodeName)
		}
	}
	return nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("certificate's serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil // RFC 5280 forbids zero
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
