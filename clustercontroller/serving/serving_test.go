package serving

import (
	"crypto/x509"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/clustercontroller/authority"
	"godwit.dev/godwit/pagestream/wire/pki"
)

func newAuthority(t *testing.T) *authority.Authority {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return &authority.Authority{CA: ca}
}

func TestTheServiceIsKnownByItsNameAndIsNobodysClient(t *testing.T) {
	ca := newAuthority(t)
	c, err := NewCertificates(ca, "webhooks", "here")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := c.get(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.CertPEM())
	verify := func(name string, use x509.ExtKeyUsage) error {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	if err := verify("webhooks.here.svc", x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	if verify("webhooks.here.svc", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("a client may use it")
	}
}

func TestACertificateIsReplacedLongBeforeItEnds(t *testing.T) {
	c, err := NewCertificates(newAuthority(t), "webhooks", "here")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	first, _ := c.get(now)
	if again, _ := c.get(now.Add(validity / 3)); again != first {
		t.Error("replaced after a third of its time")
	}
	if later, _ := c.get(now.Add(validity * 2 / 3)); later == first {
		t.Error("kept after two thirds of its time")
	}
}

func TestOnlyOurWebhooksLearnTheAuthority(t *testing.T) {
	at := func(service, namespace string) admissionv1.WebhookClientConfig {
		return admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Name: service, Namespace: namespace}}
	}
	url := "https://example.org"
	tr := trust{bundle: []byte("authority"), service: "webhooks", namespace: "here"}
	for name, tt := range map[string]struct {
		config admissionv1.WebhookClientConfig
		ours   bool
	}{
		"ours":              {at("webhooks", "here"), true},
		"another namespace": {at("webhooks", "there"), false},
		"another service":   {at("others", "here"), false},
		"by URL":            {admissionv1.WebhookClientConfig{URL: &url}, false},
	} {
		v := &admissionv1.ValidatingWebhookConfiguration{Webhooks: []admissionv1.ValidatingWebhook{{ClientConfig: tt.config}}}
		m := &admissionv1.MutatingWebhookConfiguration{Webhooks: []admissionv1.MutatingWebhook{{ClientConfig: tt.config}}}
		for _, o := range []client.Object{v, m} {
			if got := tr.write(o); got != tt.ours {
				t.Errorf("%s, %T: written %v", name, o, got)
			}
			if tr.write(o) {
				t.Errorf("%s, %T: written twice", name, o)
			}
		}
		if got := string(v.Webhooks[0].ClientConfig.CABundle) == "authority"; got != tt.ours {
			t.Errorf("%s: bundle %v", name, got)
		}
	}
}
