package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// answered starts containers of a pod of that many in order, as kubelet does, and
// returns those whose start was answered and how the last one's ends.
func answered(t *testing.T, d *destination, count int) (early []*arrival, last <-chan error) {
	t.Helper()
	for i := range count {
		c := &container{id: fmt.Sprint("c", i), admission: shimv1.Admission{AnswerEarly: true, ExpectedContainers: count}}
		ended := make(chan error, 1)
		responded := make(chan *taskAPI.StartResponse, 1)
		go func() {
			resp, err := d.start(context.Background(), c, func(context.Context) (*taskAPI.StartResponse, error) {
				t.Error("a container ran without the order to restore it")
				return nil, errors.New("ran")
			})
			responded <- resp
			ended <- err
		}()
		if _, err := d.waitParked(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
		a, _ := d.find(c.id)
		if i == count-1 {
			if a.answered() {
				t.Error("the last container's start is answered before the commit")
			}
			return early, ended
		}
		if resp := <-responded; resp.GetPid() != 7 {
			t.Fatalf("start of %s answered with %v, %v", c.id, resp, <-ended)
		}
		early = append(early, a)
	}
	return early, nil
}

func TestStartsOfAPodAreAnsweredExceptTheLast(t *testing.T) {
	for count := 1; count <= 3; count++ {
		d := testDestination()
		early, last := answered(t, d, count)
		if len(early) != count-1 {
			t.Fatalf("%d of %d starts answered", len(early), count)
		}
		for _, a := range early {
			if s := a.answeredState(); !a.answered() || s.Status != task.Status_RUNNING || s.Pid != 7 || s.ID != a.container.id {
				t.Errorf("answered %v, state %v", a.answered(), s)
			}
		}
		if err := d.abort("test"); err != nil {
			t.Fatal(err)
		}
		if err := <-last; !errors.Is(err, errAborted) {
			t.Errorf("last start ended with %v", err)
		}
		for _, a := range early {
			<-a.failed
			if a.answered() {
				t.Error("a container of an aborted migration counts as running")
			}
		}
	}
}

func TestKillOfAnAnsweredContainerEndsIt(t *testing.T) {
	d := testDestination()
	early, last := answered(t, d, 2)
	d.cancel(early[0].container.id, errKilled)
	select {
	case <-early[0].failed:
	default:
		t.Error("it does not count as stopped when the kill has returned")
	}
	if p := d.progress(); !strings.Contains(p.GetError(), errKilled.Error()) {
		t.Errorf("the daemon is told %q", p.GetError())
	}
	if err := d.abort("over"); err != nil {
		t.Fatal(err)
	}
	<-last
}

func TestKillBeforeTheStartDoesNotWait(t *testing.T) {
	d := testDestination()
	d.arrival("c1") // somebody waits for it
	d.cancel("c1", errKilled)
	if err := d.abort("over"); err != nil {
		t.Fatal(err)
	}
	d.cancel("c1", errKilled)
}

// A container that failed is made again by kubelet: it takes the place of the first.
func TestContainerThatFailedDoesNotCountAsStarted(t *testing.T) {
	d := testDestination()
	a := d.arrival("c0")
	a.state = arrivalEnded
	a.end(errKilled)
	if !d.early(&container{id: "c1", admission: shimv1.Admission{AnswerEarly: true, ExpectedContainers: 2}}) {
		t.Error("the first of two containers counts as the last")
	}
}

func TestAdmissionIsAFileOfTheDaemons(t *testing.T) {
	dir := t.TempDir()
	c := &container{id: "c1", migration: "m-1"}
	path := filepath.Join(dir, "m-1.json")
	if _, err := admit(dir, c); !errors.Is(err, errUnknownMigration) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := admit(dir, c); err != nil || a != (shimv1.Admission{}) {
		t.Errorf("empty file: %+v, %v", a, err)
	}
	if err := os.WriteFile(path, []byte(`{"answer_early": true, "expected_containers": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := admit(dir, c); err != nil || !a.AnswerEarly || a.ExpectedContainers != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	if err := os.WriteFile(path, []byte(`{"answer_early": true, "expected_containers": 2, "closed": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(dir, c); !errors.Is(err, errUnknownMigration) {
		t.Errorf("a migration that is called off: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(dir, c); err == nil {
		t.Error("nonsense admits")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", path); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(dir, c); !errors.Is(err, errUnknownMigration) {
		t.Errorf("a link: %v", err)
	}
	c.migration = "../m-1"
	if _, err := admit(dir, c); err == nil {
		t.Error("a path admits")
	}
}

func TestNothingStartsInAPodThatHasMoved(t *testing.T) {
	p := &pod{containers: map[string]*container{}}
	m := newMigrations(p, newRestoreMonitor(nil))
	if err := m.refuseDeparted("c1"); err != nil {
		t.Errorf("a pod that never moved: %v", err)
	}
	for state := range shimv1.State_name {
		m.source = testSource(shimv1.State(state))
		m.source.request.PeerName = "b"
		refused := m.refuseDeparted("c1")
		if moved := shimv1.State(state) == shimv1.State_STATE_COMMITTED; (refused != nil) != moved {
			t.Errorf("%v: %v", shimv1.State(state), refused)
		} else if moved && !strings.Contains(refused.Error(), "moved to node b with migration m1") {
			t.Errorf("refused with %v", refused)
		}
	}
}
