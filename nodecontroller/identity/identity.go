// Package identity gets a node the certificate by which its peers know it, from
// the cluster's CSR API, and renews it in time. godwit-controller signs it, for
// the node that asks only. The files are those of package pki, which the wire
// reads again when they change. Nodes without a cluster get theirs by godwitctl
// pki.
package identity

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// authorityName is the ConfigMap with the authority's certificate
// (clustercontroller/authority).
const authorityName = "godwit-ca"

// How often a certificate is looked at, and how long after a failure.
const (
	checkEvery = 10 * time.Minute
	retryAfter = 5 * time.Second
)

// answerTimeout is how long godwit-controller may take for one request.
const answerTimeout = 2 * time.Minute

// Keeper keeps one node's certificate.
type Keeper struct {
	Client kubernetes.Interface
	// Namespace is Godwit's own, with the authority's certificate.
	Namespace string
	// Node is the node's name, its own object's too.
	Node string
	// Signer signs it; v1alpha1.SignerPeer is godwit-controller.
	Signer string
	// Dir has ca.crt, node.crt and node.key.
	Dir string
	Log *slog.Logger
}

// Ensure returns when the node has a certificate that will hold for a while, or
// when ctx ends: it asks until it gets one.
func (k *Keeper) Ensure(ctx context.Context) error {
	for {
		err := k.renew(ctx)
		if err == nil {
			return nil
		}
		k.Log.Warn("no certificate yet", "error", err)
		if !pause(ctx, retryAfter) {
			return fmt.Errorf("certificate of node %s: %w", k.Node, err)
		}
	}
}

// Run renews the certificate in time until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for pause(ctx, checkEvery) {
		if err := k.renew(ctx); err != nil {
			k.Log.Error("certificate not renewed", "error", err)
		}
	}
}

// pause returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// renew gets a certificate unless the one that is there is good.
func (k *Keeper) renew(ctx context.Context) error {
	node, err := k.Client.CoreV1().Nodes().Get(ctx, k.Node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("node %s: %w", k.Node, err)
	}
	published, err := k.Client.CoreV1().ConfigMaps(k.Namespace).Get(ctx, authorityName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("certificate authority: %w: does godwit-controller run?", err)
	}
	authorities := []byte(published.Data[pki.CACertFile])
	ips := addresses(node)
	why := k.wants(authorities, ips, time.Now())
	if why == "" {
		return nil
	}
	k.Log.Info("asking the cluster for a certificate", "why", why)
	return k.ask(ctx, authorities, ips)
}

// wants says why the node needs another certificate, or nothing.
func (k *Keeper) wants(authorities []byte, ips []net.IP, now time.Time) string {
	creds, err := wire.LoadCredentials(k.Dir)
	if err != nil {
		return err.Error()
	}
	if creds.Node() != k.Node {
		return "the certificate is node " + creds.Node() + "'s"
	}
	have, err := os.ReadFile(filepath.Join(k.Dir, pki.CACertFile))
	if err != nil || !bytes.Equal(have, authorities) {
		return "the cluster's authority has changed"
	}
	leaf, err := readLeaf(filepath.Join(k.Dir, pki.NodeCertFile))
	if err != nil {
		return err.Error()
	}
	for _, ip := range ips {
		if leaf.VerifyHostname(ip.String()) != nil {
			return "the node has the address " + ip.String() + " now"
		}
	}
	if left := leaf.NotAfter.Sub(now); left < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
		return "it holds for another " + left.Round(time.Minute).String() + " only"
	}
	return ""
}

func readLeaf(path string) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate in PEM", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func addresses(node *corev1.Node) []net.IP {
	var all []net.IP
	for _, a := range node.Status.Addresses {
		if ip := net.ParseIP(a.Address); a.Type == corev1.NodeInternalIP && ip != nil {
			all = append(all, ip)
		}
	}
	return all
}

// ask makes a key, has it signed, and writes both. The key has never been
// anywhere else.
func (k *Keeper) ask(ctx context.Context, authorities []byte, ips []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: k.Node}, DNSNames: []string{k.Node}, IPAddresses: ips,
	}, key)
	if err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	request := &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "godwit-" + k.Node + "-"},
		Spec: certv1.CertificateSigningRequestSpec{
			SignerName: k.Signer,
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			Usages:     []certv1.KeyUsage{certv1.UsageClientAuth, certv1.UsageServerAuth},
		},
	}
	made, err := k.Client.CertificatesV1().CertificateSigningRequests().Create(ctx, request, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	cert, err := k.await(ctx, made)
	if err != nil {
		return fmt.Errorf("certificate request %s: %w", made.Name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	return pki.Write(k.Dir, authorities, cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

// await returns the certificate once the request is answered.
func (k *Keeper) await(ctx context.Context, made *certv1.CertificateSigningRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	events, err := k.Client.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, made.Name).String(),
		ResourceVersion: made.ResourceVersion,
	})
	if err != nil {
		return nil, err
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		csr, ok := e.Object.(*certv1.CertificateSigningRequest)
		switch {
		case !ok || e.Type == watch.Deleted:
			return nil, fmt.Errorf("it was removed before it was answered (%s)", e.Type)
		case len(csr.Status.Certificate) > 0:
			return csr.Status.Certificate, nil
		}
		for _, c := range csr.Status.Conditions {
			if c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed {
				return nil, errors.New(c.Message)
			}
		}
	}
	return nil, fmt.Errorf("no answer within %v: does godwit-controller run?", answerTimeout)
}
