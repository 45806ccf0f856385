package kubernetes

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestPlacesGoByPriorityToThoseWhoStillAsk(t *testing.T) {
	c := &Controller{most: 1, sessions: make(map[types.UID]*session), waiting: make(map[types.UID]waiting)}
	now := time.Unix(1000, 0)
	ask := func(uid string, priority int32, created int64) int {
		m := &v1alpha1.PodMigration{}
		m.UID, m.CreationTimestamp, m.Spec.Priority = types.UID(uid), metav1.Unix(created, 0), priority
		return c.reserve(m, now)
	}
	for _, k := range []struct {
		uid      string
		priority int32
		created  int64
		want     int
	}{
		{"runs", 0, 1, 0}, {"second", 0, 3, 1}, {"first", 0, 2, 1}, {"second", 0, 3, 2}, {"urgent", 1, 4, 1}, {"first", 0, 2, 2}, {"second", 0, 3, 3},
	} {
		if got := ask(k.uid, k.priority, k.created); got != k.want {
			t.Errorf("%s waits at %d, want %d", k.uid, got, k.want)
		}
	}
	c.forget("runs")
	if got := ask("first", 0, 2); got != 2 {
		t.Errorf("with a place free the second one is at %d", got)
	}
	if got := ask("urgent", 1, 4); got != 0 {
		t.Errorf("the first one is at %d", got)
	}
	c.forget("urgent")
	now = now.Add(askedLately + time.Second)
	if got := ask("second", 0, 3); got != 0 {
		t.Errorf("it is at %d behind one that asks no more", got)
	}
	c.most = 0
	if got := ask("other", -1, 9); got != 0 {
		t.Errorf("without a limit it is at %d", got)
	}
}
