// Package signing answers the nodes' requests for certificates, made by the
// cluster's CSR API: it approves and signs those by which a node asks for its
// own, and denies all others for its signer. The authority is package
// authority's; the asking is nodecontroller/identity's.
package signing

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"godwit.dev/godwit/clustercontroller/authority"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// keepIssued is how long a request stays after it was answered, for its node to
// take the certificate. The cluster would keep it for an hour.
const keepIssued = 2 * time.Minute

// The reason in conditions of requests.
const reason = "GodwitNode"

// Options say whose requests are signed, and for how long.
type Options struct {
	// Namespace has the nodes' service account.
	Namespace string
	// Signer is whom requests are for. If it is another than v1alpha1.SignerPeer,
	// good ones are approved here and signed by whoever that is.
	Signer string
	// Validity is how long a certificate holds unless less is asked for.
	Validity time.Duration
}

// Add has the manager's leader answer requests.
func Add(m manager.Manager, ca *authority.Authority, o Options) error {
	s := &signer{
		client:   m.GetClient(),
		live:     m.GetAPIReader(),
		ca:       ca,
		username: "system:serviceaccount:" + o.Namespace + ":" + v1alpha1.NodeServiceAccount,
		validity: o.Validity,
		foreign:  o.Signer != v1alpha1.SignerPeer,
	}
	ours := predicate.NewPredicateFuncs(func(object client.Object) bool {
		csr, ok := object.(*certv1.CertificateSigningRequest)
		return ok && csr.Spec.SignerName == o.Signer && (o.Signer == v1alpha1.SignerPeer || csr.Spec.Username == s.username)
	})
	err := builder.ControllerManagedBy(m).Named("signing").
		For(&certv1.CertificateSigningRequest{}, builder.WithPredicates(ours)).Complete(s)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	return nil
}

// signer reconciles requests for its signer name.
type signer struct {
	client   client.Client
	live     client.Reader // nodes, of which the controller keeps no list
	ca       *authority.Authority
	username string
	validity time.Duration
	foreign  bool // somebody else signs what is approved here
}

// Reconcile brings a request one step further: approved, then signed, then
// removed; or denied, and left to the cluster to remove.
func (s *signer) Reconcile(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	var csr certv1.CertificateSigningRequest
	if err := s.client.Get(ctx, r.NamespacedName, &csr); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	approved, ended := state(&csr)
	switch {
	case ended:
		return reconcile.Result{}, nil
	case len(csr.Status.Certificate) > 0:
		return s.remove(ctx, &csr)
	}
	request, node, err := s.review(ctx, &csr)
	switch {
	case errors.Is(err, errRefused):
		log.FromContext(ctx).Info("certificate refused", "request", csr.Name, "from", csr.Spec.Username, "reason", err.Error())
		return reconcile.Result{}, s.end(ctx, &csr, approved, err)
	case err != nil:
		return reconcile.Result{}, err
	case !approved:
		return reconcile.Result{}, s.approve(ctx, &csr, node) // its update brings us back
	case s.foreign:
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, s.sign(ctx, &csr, request, node)
}

// state says what conditions a request has: approved; denied or failed.
func state(csr *certv1.CertificateSigningRequest) (approved, ended bool) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certv1.CertificateApproved:
			approved = true
		case certv1.CertificateDenied, certv1.CertificateFailed:
			ended = true
		}
	}
	return approved, ended
}

func (s *signer) review(ctx context.Context, csr *certv1.CertificateSigningRequest) (*x509.CertificateRequest, string, error) {
	name, err := requester(csr, s.username)
	if err != nil {
		return nil, "", err
	}
	var node corev1.Node
	if err := s.live.Get(ctx, types.NamespacedName{Name: name}, &node); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, name, refuse("there is no node %s", name)
		}
		return nil, name, fmt.Errorf("node %s: %w", name, err)
	}
	request, err := review(csr, &node)
	return request, name, err
}

func (s *signer) approve(ctx context.Context, csr *certv1.CertificateSigningRequest, node string) error {
	addCondition(csr, certv1.CertificateApproved, "asked for by Godwit's daemon on node "+node)
	if err := s.client.SubResource("approval").Update(ctx, csr); err != nil {
		return fmt.Errorf("approve %s: %w", csr.Name, err)
	}
	return nil
}

func (s *signer) sign(ctx context.Context, csr *certv1.CertificateSigningRequest, r *x509.CertificateRequest, node string) error {
	validity := s.validity
	if asked := csr.Spec.ExpirationSeconds; asked != nil {
		validity = min(validity, time.Duration(*asked)*time.Second)
	}
	cert, err := s.ca.Sign(r.PublicKey, node, r.IPAddresses, validity)
	if err != nil {
		return err
	}
	csr.Status.Certificate = cert
	if err := s.client.Status().Update(ctx, csr); err != nil {
		return fmt.Errorf("certificate for %s: %w", csr.Name, err)
	}
	log.FromContext(ctx).Info("certificate signed", "node", node, "request", csr.Name, "validity", validity)
	return nil
}

// end denies a request; one that somebody else approved fails.
func (s *signer) end(ctx context.Context, csr *certv1.CertificateSigningRequest, approved bool, why error) error {
	if approved {
		addCondition(csr, certv1.CertificateFailed, why.Error())
		if err := s.client.Status().Update(ctx, csr); err != nil {
			return fmt.Errorf("fail %s: %w", csr.Name, err)
		}
		return nil
	}
	addCondition(csr, certv1.CertificateDenied, why.Error())
	if err := s.client.SubResource("approval").Update(ctx, csr); err != nil {
		return fmt.Errorf("deny %s: %w", csr.Name, err)
	}
	return nil
}

// remove deletes a request that was answered some time ago.
func (s *signer) remove(ctx context.Context, csr *certv1.CertificateSigningRequest) (reconcile.Result, error) {
	for _, c := range csr.Status.Conditions {
		if left := keepIssued - time.Since(c.LastUpdateTime.Time); c.Type == certv1.CertificateApproved && left > 0 {
			return reconcile.Result{RequeueAfter: left}, nil
		}
	}
	if err := s.client.Delete(ctx, csr); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, fmt.Errorf("remove %s: %w", csr.Name, err)
	}
	return reconcile.Result{}, nil
}

func addCondition(csr *certv1.CertificateSigningRequest, kind certv1.RequestConditionType, message string) {
	now := metav1.Now()
	csr.Status.Conditions = append(csr.Status.Conditions, certv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}
