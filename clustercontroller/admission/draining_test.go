package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// Two replicas may each have found the last place on a node free.
func TestAMigrationTooManyIsTakenBack(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	drain := func(name string) *v1alpha1.PodMigration {
		return newDrain(movable(func(p *corev1.Pod) { p.Name, p.UID = name, types.UID(name) }), 1)
	}
	for name, c := range map[string]struct {
		there []client.Object
		stays bool
	}{
		"within the limit": {[]client.Object{drain("x")}, true},
		"beyond it":        {[]client.Object{drain("x"), drain("y")}, false},
	} {
		api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(c.there...).Build()
		h := &evictionHandler{live: api, client: api, options: settings}
		err := h.ask(t.Context(), drain("z"))
		if c.stays != (err == nil) || err != nil && !strings.Contains(err.Error(), "more than 2") {
			t.Errorf("%s: %v", name, err)
		}
		err = api.Get(t.Context(), client.ObjectKeyFromObject(drain("z")), &v1alpha1.PodMigration{})
		if c.stays != (err == nil) {
			t.Errorf("%s: the migration: %v", name, err)
		}
	}
}
