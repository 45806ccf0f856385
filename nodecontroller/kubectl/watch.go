package kubectl

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

// errDeleted: the object that is watched is there no more.
var errDeleted = errors.New("the PodMigration was deleted")

// again is the pause before an API server that fails is asked again.
const again = time.Second

// updates calls show for the object as it is and after each change, until it is
// deleted, the caller may not look at it, or ctx ends. An API server that does not
// answer is asked again; trouble is told once each time.
func (c *cluster) updates(ctx context.Context, m *v1alpha1.PodMigration, show func(*v1alpha1.PodMigration), trouble func(error)) error {
	told := false
	for {
		err := c.look(ctx, m, func(m *v1alpha1.PodMigration) {
			told = false
			show(m)
		})
		switch {
		case errors.Is(err, errDeleted), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return err
		case err != nil && ctx.Err() == nil && !told:
			trouble(err)
			told = true
		}
		pause := time.NewTimer(again)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// look shows the object and its changes until the watch ends, which the API server
// does from time to time.
func (c *cluster) look(ctx context.Context, m *v1alpha1.PodMigration, show func(*v1alpha1.PodMigration)) error {
	one := []client.ListOption{client.InNamespace(m.Namespace), client.MatchingFields{"metadata.name": m.Name}}
	var list v1alpha1.PodMigrationList
	if err := c.List(ctx, &list, one...); err != nil {
		return err
	}
	if len(list.Items) == 0 || list.Items[0].UID != m.UID {
		return errDeleted
	}
	show(&list.Items[0])
	w, err := c.Watch(ctx, &list, append(one, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.ResourceVersion}})...)
	if err != nil {
		return err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		switch e.Type {
		case watch.Added, watch.Modified:
			changed, ok := e.Object.(*v1alpha1.PodMigration)
			if !ok {
				return fmt.Errorf("watch: a %T came", e.Object)
			}
			show(changed)
		case watch.Deleted:
			return errDeleted
		case watch.Error:
			return apierrors.FromObject(e.Object)
		}
	}
	return nil
}
