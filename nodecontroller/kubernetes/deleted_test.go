package kubernetes

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

func TestAPodThatSomebodyDeletesIsNotMoved(t *testing.T) {
	get := func(t *testing.T, s *session) *corev1.Pod {
		pod := new(corev1.Pod)
		if err := s.c.reader.Get(t.Context(), client.ObjectKeyFromObject(s.source), pod); err != nil {
			t.Fatal(err)
		}
		return pod
	}
	for name, happens := range map[string]func(*testing.T, *session) error{
		"it is being deleted": func(t *testing.T, s *session) error {
			pod := get(t, s)
			pod.Finalizers = []string{"shop/keeps-it"}
			return errors.Join(s.c.client.Update(t.Context(), pod), s.c.client.Delete(t.Context(), pod))
		},
		"it is gone": func(t *testing.T, s *session) error { return s.c.client.Delete(t.Context(), get(t, s)) },
		"it is another of its name": func(_ *testing.T, s *session) error {
			s.source.UID = types.UID("the first")
			return nil
		},
	} {
		s := lateMove(t, nil)
		if err := s.Await(t.Context(), ""); err != nil {
			t.Errorf("%s: before: %v", name, err)
		}
		if err := happens(t, s); err != nil {
			t.Fatal(err)
		}
		if err := s.Await(t.Context(), ""); !errors.Is(err, errSourceDeleted) {
			t.Errorf("%s: %v, want %v", name, err, errSourceDeleted)
		}
	}
}

func TestWhatHappensIsNotWrittenForeverIntoAnObjectThatIsGone(t *testing.T) {
	s := lateMove(t, nil)
	if err := s.c.client.Delete(t.Context(), s.live(t)); err != nil {
		t.Fatal(err)
	}
	e := &nodev1.Event{Kind: "freezing", Phase: nodev1.Phase_PHASE_MIGRATING, Message: "freezing"}
	if err := s.write(t.Context(), []*nodev1.Event{e}); err != nil { // or it does not return
		t.Error(err)
	}
	if err := s.Agree(t.Context(), ""); !errors.Is(err, errObjectGone) {
		t.Errorf("%v, want %v", err, errObjectGone)
	}
}
