package kubectl

import (
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/cli"
)

// failure says what an answer of the API server about what means, and gives it
// its exit code.
func failure(what string, err error) error {
	if err == nil {
		return nil
	}
	switch {
	case meta.IsNoMatchError(err):
		return cli.Exit(cli.ExitRefused, errors.New("this cluster does not know PodMigrations: Godwit is not installed in it; "+
			"install its chart, or at least its definition: kubectl apply -f contrib/kubernetes/crd"))
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return cli.Exit(cli.ExitRefused, fmt.Errorf("%s is refused: %s", what, strings.Join(causes(err), "; ")))
	case apierrors.IsNotFound(err):
		return cli.Exit(cli.ExitRefused, fmt.Errorf("%s: there is none of that name", what))
	case apierrors.IsForbidden(err):
		return cli.Exit(cli.ExitRefused, fmt.Errorf("%s: %w", what, err))
	case apierrors.IsUnauthorized(err):
		return cli.Exit(cli.ExitRefused, fmt.Errorf("%s: the cluster does not accept these credentials: %w", what, err))
	}
	return cli.Exit(cli.ExitFailure, fmt.Errorf("%s: %w", what, err))
}

// causes are what a validation has against an object, in its own words: what the
// API server puts around a rule's message is for programs.
func causes(err error) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return []string{err.Error()}
	}
	var list []string
	for _, c := range status.Status().Details.Causes {
		list = append(list, cause(c))
	}
	return list
}

func cause(c metav1.StatusCause) string {
	text := c.Message
	if rest, ok := strings.CutPrefix(text, "Invalid value: "); ok {
		// The value is quoted, an object as JSON, or a plain number.
		end := ": "
		switch {
		case strings.HasPrefix(rest, `"`):
			end = `": `
		case strings.HasPrefix(rest, "{"):
			end = "}: "
		}
		if _, rule, ok := strings.Cut(rest, end); ok {
			text = rule
		}
	}
	if c.Field == "" || c.Field == "spec" || c.Field == "<nil>" || strings.HasPrefix(text, c.Field) {
		return text
	}
	return c.Field + ": " + text
}
