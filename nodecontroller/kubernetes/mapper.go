package kubernetes

import (
	"net/http"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// mapper knows the kinds that the controller reads and writes, so that it need not
// ask an API server for them: a daemon that is started while there is none would
// not come up, and could not finish what an earlier one began.
func mapper(*rest.Config, *http.Client) (meta.RESTMapper, error) {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Pod", "PersistentVolumeClaim"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"Node", "PersistentVolume"} {
		m.Add(corev1.SchemeGroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	m.Add(appsv1.SchemeGroupVersion.WithKind(kindReplicaSet), meta.RESTScopeNamespace)
	m.Add(appsv1.SchemeGroupVersion.WithKind(kindStatefulSet), meta.RESTScopeNamespace)
	m.Add(batchv1.SchemeGroupVersion.WithKind(kindJob), meta.RESTScopeNamespace)
	m.Add(admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"), meta.RESTScopeRoot)
	m.Add(v1alpha1.GroupVersion.WithKind("PodMigration"), meta.RESTScopeNamespace)
	return m, nil
}
