package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"godwit.dev/godwit/pagestream/wire/pki"
)

// extraNode is where the API server says on which node the pod runs whose token
// a request came with.
const extraNode = "authentication.kubernetes.io/node-name"

// oidSubjectAltName is the only extension that a request may ask for.
var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// errRefused is wrapped by the error about a request that is never signed.
var errRefused = errors.New("not signed")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errRefused}, args...)...)
}

// requester is the name of the node from which the request came, by what the API
// server says of the requester. Nothing that the requester wrote has a part in it.
func requester(csr *certv1.CertificateSigningRequest, username string) (node string, err error) {
	if csr.Spec.Username != username {
		return "", refuse("%s asks, only %s may", csr.Spec.Username, username)
	}
	names := csr.Spec.Extra[extraNode]
	if len(names) != 1 {
		return "", refuse("the requester's token is not bound to a pod on a node (%s: %q): Kubernetes 1.30 or later is needed", extraNode, []string(names))
	}
	if err := pki.CheckNodeName(names[0]); err != nil {
		return "", refuse("%w", err)
	}
	return names[0], nil
}

// review says what to sign for the node from which the request came, or why
// nothing: then the error wraps errRefused.
func review(csr *certv1.CertificateSigningRequest, node *corev1.Node) (*x509.CertificateRequest, error) {
	want := []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageServerAuth}
	if got := slices.Sorted(slices.Values(csr.Spec.Usages)); !slices.Equal(got, want) {
		return nil, refuse("usages %q, want %q", got, want)
	}
	r, err := parse(csr.Spec.Request)
	if err != nil {
		return nil, err
	}
	// One attribute, the common name: neither an organization nor a second name.
	if names := r.Subject.Names; len(names) != 1 || r.Subject.CommonName != node.Name {
		return nil, refuse("subject %q, want CN=%s alone: a node gets its own certificate only", r.Subject, node.Name)
	}
	if !slices.Equal(r.DNSNames, []string{node.Name}) {
		return nil, refuse("DNS names %q, want the node's, %s, alone", r.DNSNames, node.Name)
	}
	if len(r.EmailAddresses) > 0 || len(r.URIs) > 0 {
		return nil, refuse("names that are neither DNS names nor addresses")
	}
	for _, e := range r.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			return nil, refuse("extension %s", e.Id)
		}
	}
	for _, ip := range r.IPAddresses {
		if !slices.ContainsFunc(addresses(node), ip.Equal) {
			return nil, refuse("%s is no InternalIP of node %s", ip, node.Name)
		}
	}
	return r, nil
}

// parse reads what must be one request in PEM, signed by the key it is for.
func parse(text []byte) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refuse("not one PEM block \"CERTIFICATE REQUEST\"")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuse("certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, refuse("certificate request: %w", err)
	}
	switch key := r.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, refuse("key on curve %s, want ECDSA P-256 or Ed25519", key.Curve.Params().Name)
		}
	default:
		return nil, refuse("%s key, want ECDSA P-256 or Ed25519", r.PublicKeyAlgorithm)
	}
	return r, nil
}

// addresses are the node's InternalIPs.
func addresses(node *corev1.Node) []net.IP {
	var all []net.IP
	for _, a := range node.Status.Addresses {
		if ip := net.ParseIP(a.Address); a.Type == corev1.NodeInternalIP && ip != nil {
			all = append(all, ip)
		}
	}
	return all
}
