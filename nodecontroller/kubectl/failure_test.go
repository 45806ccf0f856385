package kubectl

import (
	"errors"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"godwit.dev/godwit/nodecontroller/cli"
)

func TestRefusalsAreInTheWordsOfTheirRules(t *testing.T) {
	for _, c := range []struct{ field, message, want string }{
		{"spec", `Invalid value: "object": mode Cold has no use for a tracker: leave it out`, "mode Cold has no use for a tracker: leave it out"},
		{"spec", `Invalid value: {"mode":"Cold","podName":"p"}: mode Cold has no use for a tracker: leave it out`, "mode Cold has no use for a tracker: leave it out"},
		{"spec.preCopy.maxRounds", `Invalid value: 2000: spec.preCopy.maxRounds in body should be less than or equal to 1000`,
			"spec.preCopy.maxRounds in body should be less than or equal to 1000"},
		{"spec.mode", `Unsupported value: "Warm": supported values: "Live", "Cold"`, `spec.mode: Unsupported value: "Warm": supported values: "Live", "Cold"`},
	} {
		if got := cause(metav1.StatusCause{Field: c.field, Message: c.message}); got != c.want {
			t.Errorf("%s\nis said as %s\nwant       %s", c.message, got, c.want)
		}
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	resource := schema.GroupResource{Group: "godwit.dev", Resource: "podmigrations"}
	for _, c := range []struct {
		err  error
		want string
		code int
	}{
		{&meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: "godwit.dev", Kind: "PodMigration"}}, "this cluster does not know PodMigrations: Godwit is not installed in it; " +
			"install its chart, or at least its definition: kubectl apply -f contrib/kubernetes/crd", cli.ExitRefused},
		{apierrors.NewNotFound(resource, "m"), "the thing: there is none of that name", cli.ExitRefused},
		{errors.New("connection refused"), "the thing: connection refused", cli.ExitFailure},
	} {
		err := failure("the thing", c.err)
		if err.Error() != c.want {
			t.Errorf("%v is said as %q", c.err, err)
		}
		if code := cli.Finish("test", err); code != c.code {
			t.Errorf("%v: exit code %d, want %d", err, code, c.code)
		}
	}
	if failure("the thing", nil) != nil {
		t.Error("success is a failure")
	}
}
