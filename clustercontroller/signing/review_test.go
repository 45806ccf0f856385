package signing

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"testing"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const nodeUser = "system:serviceaccount:godwit-system:godwit-node"

var nodeA = &corev1.Node{
	ObjectMeta: metav1.ObjectMeta{Name: "a"},
	Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
		{Type: corev1.NodeExternalIP, Address: "198.51.100.1"}, {Type: corev1.NodeHostName, Address: "a"},
	}},
}

// good is what node a asks.
func good() *x509.CertificateRequest {
	return &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"a"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")},
	}
}

func request(t testing.TB, r *x509.CertificateRequest, key crypto.Signer) *certv1.CertificateSigningRequest {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certv1.CertificateSigningRequest{Spec: certv1.CertificateSigningRequestSpec{
		Request:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		Usages:   []certv1.KeyUsage{certv1.UsageServerAuth, certv1.UsageClientAuth},
		Username: nodeUser,
		Extra:    map[string]certv1.ExtraValue{extraNode: {"a"}},
	}}
}

func p256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestANodeGetsItsOwnCertificateAndNoOther(t *testing.T) {
	tests := map[string]struct {
		change func(*x509.CertificateRequest)
		signed bool
	}{
		"its own":                 {func(*x509.CertificateRequest) {}, true},
		"without addresses":       {func(r *x509.CertificateRequest) { r.IPAddresses = nil }, true},
		"another's name":          {func(r *x509.CertificateRequest) { r.Subject.CommonName, r.DNSNames = "b", []string{"b"} }, false},
		"another's common name":   {func(r *x509.CertificateRequest) { r.Subject.CommonName = "b" }, false},
		"another's name too":      {func(r *x509.CertificateRequest) { r.DNSNames = []string{"a", "b"} }, false},
		"no DNS name":             {func(r *x509.CertificateRequest) { r.DNSNames = nil }, false},
		"an organization":         {func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }, false},
		"an external address":     {func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.ParseIP("198.51.100.1")} }, false},
		"somebody else's address": {func(r *x509.CertificateRequest) { r.IPAddresses = append(r.IPAddresses, net.ParseIP("192.0.2.2")) }, false},
		"a mail address":          {func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@example.org"} }, false},
		"a URI":                   {func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, false},
		"an authority": {func(r *x509.CertificateRequest) {
			r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}
		}, false},
	}
	for name, tt := range tests {
		r := good()
		tt.change(r)
		_, err := review(request(t, r, p256(t)), nodeA)
		if (err == nil) != tt.signed || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysAreP256OrEd25519(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	weak, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, tt := range map[string]struct {
		key    crypto.Signer
		signed bool
	}{"P-256": {p256(t), true}, "Ed25519": {ed, true}, "P-384": {p384, false}, "RSA": {weak, false}} {
		if _, err := review(request(t, good(), tt.key), nodeA); (err == nil) != tt.signed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUsagesAreThoseOfBothSidesExactly(t *testing.T) {
	for name, tt := range map[string]struct {
		usages []certv1.KeyUsage
		signed bool
	}{
		"both":        {[]certv1.KeyUsage{certv1.UsageServerAuth, certv1.UsageClientAuth}, true},
		"one":         {[]certv1.KeyUsage{certv1.UsageClientAuth}, false},
		"one more":    {[]certv1.KeyUsage{certv1.UsageServerAuth, certv1.UsageClientAuth, certv1.UsageCertSign}, false},
		"one twice":   {[]certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageClientAuth}, false},
		"none at all": {nil, false},
	} {
		csr := request(t, good(), p256(t))
		csr.Spec.Usages = tt.usages
		if _, err := review(csr, nodeA); (err == nil) != tt.signed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyAPodOfTheNodeAsksForIt(t *testing.T) {
	for name, tt := range map[string]struct {
		username string
		nodes    []string
		want     string
	}{
		"a node's daemon":       {nodeUser, []string{"a"}, "a"},
		"an administrator":      {"admin", []string{"a"}, ""},
		"another account":       {"system:serviceaccount:default:godwit-node", []string{"a"}, ""},
		"a token of no pod":     {nodeUser, nil, ""},
		"two nodes":             {nodeUser, []string{"a", "b"}, ""},
		"no name":               {nodeUser, []string{""}, ""},
		"a name that is a path": {nodeUser, []string{"../a"}, ""},
	} {
		csr := request(t, good(), p256(t))
		csr.Spec.Username, csr.Spec.Extra = tt.username, map[string]certv1.ExtraValue{extraNode: tt.nodes}
		got, err := requester(csr, nodeUser)
		if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestARequestSignedByAnotherKeyIsRefused(t *testing.T) {
	csr := request(t, good(), p256(t))
	block, _ := pem.Decode(csr.Spec.Request)
	block.Bytes[len(block.Bytes)-1] ^= 1
	csr.Spec.Request = pem.EncodeToMemory(block)
	if _, err := review(csr, nodeA); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
}

// FuzzReview reads what anybody may send: nothing but a request for node a alone gets through.
func FuzzReview(f *testing.F) {
	csr := request(f, good(), p256(f))
	f.Add(csr.Spec.Request)
	f.Add(append(csr.Spec.Request, csr.Spec.Request...))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		csr := csr.DeepCopy()
		csr.Spec.Request = text
		r, err := review(csr, nodeA)
		if err == nil && (r.Subject.CommonName != "a" || len(r.DNSNames) != 1 || r.DNSNames[0] != "a") {
			t.Errorf("%v would be signed", r.Subject)
		}
		if err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%v", err)
		}
	})
}
