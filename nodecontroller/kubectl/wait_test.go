package kubectl

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/nodecontroller/cli"
)

func at(p v1alpha1.Phase, message string) *v1alpha1.PodMigration {
	m := &v1alpha1.PodMigration{
		ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "ns"},
		Spec:       v1alpha1.PodMigrationSpec{PodName: "p", Mode: v1alpha1.ModeLive},
		Status:     v1alpha1.PodMigrationStatus{Phase: p, Message: message},
	}
	if p.Over() {
		m.Status.CompletionTime = &metav1.Time{Time: time.Unix(2000, 0)}
	}
	return m
}

// waiting is a wait whose updates and interrupts are the test's.
type waiting struct {
	follower
	out        bytes.Buffer
	interrupts chan os.Signal
	untaken    chan time.Time
	late       chan time.Time
	cancelled  chan struct{}
	ended      chan error
}

func startWaiting(t *testing.T) *waiting {
	w := &waiting{interrupts: make(chan os.Signal), untaken: make(chan time.Time), late: make(chan time.Time), cancelled: make(chan struct{}, 2), ended: make(chan error, 1)}
	w.follower = follower{
		updates: make(chan *v1alpha1.PodMigration), notes: make(chan string), interrupts: w.interrupts, untaken: w.untaken,
		late:   func() <-chan time.Time { return w.late },
		cancel: func() error { w.cancelled <- struct{}{}; return nil },
		view:   &lineView{steps: steps{w: &w.out}},
	}
	go func() { w.ended <- w.follow(t.Context(), at("", "")) }()
	return w
}

func TestWaitEndsAsTheMigrationDoes(t *testing.T) {
	for _, c := range []struct {
		last *v1alpha1.PodMigration
		code int
	}{
		{at(v1alpha1.PhaseSucceeded, "done"), cli.ExitOK},
		{at(v1alpha1.PhaseFailed, "no room"), cli.ExitFailed},
		{at(v1alpha1.PhaseCancelled, "asked"), cli.ExitCancelled},
	} {
		w := startWaiting(t)
		w.updates <- at(v1alpha1.PhasePreparing, "asking b")
		w.updates <- at(v1alpha1.PhaseMigrating, "engine WriteProtect")
		w.updates <- c.last
		err := <-w.ended
		if code := cli.Finish("test", err); code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.last.Status.Phase, code, c.code)
		}
		if err != nil && !strings.Contains(err.Error(), c.last.Status.Message) {
			t.Errorf("%v does not say why", err)
		}
		for _, want := range []string{"Preparing: asking b", "Migrating: engine WriteProtect"} {
			if strings.Count(w.out.String(), want) != 1 {
				t.Errorf("%q is not there once:\n%s", want, &w.out)
			}
		}
	}
}

func TestFiguresThatComeAfterThePhaseAreWaitedFor(t *testing.T) {
	for _, come := range []bool{true, false} {
		w := startWaiting(t)
		m := at(v1alpha1.PhaseSucceeded, "")
		m.Status.CompletionTime = nil
		w.updates <- m
		if come {
			m = at(v1alpha1.PhaseSucceeded, "")
			m.Status.Downtime = &metav1.Duration{Duration: 228 * time.Millisecond}
			w.updates <- m
		} else {
			w.late <- time.Now()
		}
		if err := <-w.ended; err != nil || strings.Contains(w.out.String(), "downtime 228ms") != come || !strings.Contains(w.out.String(), "pod p moved") {
			t.Errorf("figures come %v: %v\n%s", come, err, &w.out)
		}
	}
}

func TestFirstInterruptCancelsAndTheSecondLeaves(t *testing.T) {
	w := startWaiting(t)
	w.interrupts <- os.Interrupt
	<-w.cancelled
	w.updates <- at(v1alpha1.PhaseMigrating, "stopping") // it still listens
	w.interrupts <- os.Interrupt
	if code := cli.Finish("test", <-w.ended); code != cli.ExitLeft {
		t.Errorf("exit code %d, want %d", code, cli.ExitLeft)
	}
	if len(w.cancelled) > 0 {
		t.Error("cancelled twice")
	}
}

func TestAMigrationThatNobodyTakesUpIsRemarkedUpon(t *testing.T) {
	w := startWaiting(t)
	w.untaken <- time.Now()
	w.updates <- at(v1alpha1.PhaseSucceeded, "")
	<-w.ended
	if !strings.Contains(w.out.String(), "no node has taken it up") {
		t.Errorf("said:\n%s", &w.out)
	}
}

func TestADeletedMigrationEndsTheWait(t *testing.T) {
	w := startWaiting(t)
	w.updates <- at(v1alpha1.PhaseMigrating, "")
	w.err = errDeleted
	close(w.updates)
	if err := <-w.ended; err == nil || !strings.Contains(err.Error(), "deleted; when it was last seen it was Migrating") {
		t.Errorf("ended with %v", err)
	}
}

func TestProgressIsShownWithItsRates(t *testing.T) {
	m := at(v1alpha1.PhaseMigrating, "")
	m.Status.MemoryBytes, m.Status.BytesSent, m.Status.Rate, m.Status.DirtyRate = 1<<30, 512<<20, 300<<20, 5<<20
	m.Status.Rounds = []v1alpha1.Round{{Number: 0}, {Number: 1}}
	if got, want := progress(&m.Status), "round 2: sent 512.0 MiB for 1.0 GiB of memory, 300.0 MiB/s, dirtied at 5.0 MiB/s"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	var out bytes.Buffer
	m.Status.Phase, m.Status.SourceNode, m.Status.DestinationNode = v1alpha1.PhaseSucceeded, "a", "b"
	m.Status.DestinationPod = &v1alpha1.PodReference{Name: "p-x", IP: "192.0.2.1"}
	m.Status.Downtime = &metav1.Duration{Duration: 228400 * time.Microsecond}
	m.Status.Total = &metav1.Duration{Duration: 12345 * time.Millisecond}
	(&lineView{steps: steps{w: &out}}).close(m)
	for _, want := range []string{"pod p moved from a to b: it is pod p-x, address 192.0.2.1", "total 12.3s, downtime 228ms", "round 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
}

func TestOnlyWhatIsNotCommittedCanBeCancelled(t *testing.T) {
	for p, want := range map[v1alpha1.Phase]string{
		"": "", v1alpha1.PhaseMigrating: "", v1alpha1.PhaseMigrationComplete: "is committed", v1alpha1.PhaseFailed: "is over",
	} {
		err := cancellable(at(p, ""))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", p, err, want)
		}
	}
}

func TestListAndDescribeSayAllThereIs(t *testing.T) {
	m := at(v1alpha1.PhaseFailed, "node b has no room:\nmore of it")
	m.CreationTimestamp = metav1.NewTime(time.Unix(1000, 0))
	m.Status.SourceNode, m.Spec.TargetNode = "a", "b"
	m.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionMovable, Status: metav1.ConditionTrue}}
	m.Status.Containers = []v1alpha1.ContainerStatus{{Name: "main", State: v1alpha1.ContainerRunning}}
	var out bytes.Buffer
	if err := printList(&out, []v1alpha1.PodMigration{*m}, true, time.Unix(1090, 0)); err != nil {
		t.Fatal(err)
	}
	row := strings.Join(strings.Fields(strings.Split(out.String(), "\n")[1]), " ")
	if want := "ns m p a b Failed - 90s node b has no room:"; row != want {
		t.Errorf("row %q, want %q", row, want)
	}
	out.Reset()
	describe(&out, m)
	for _, want := range []string{"ns/m", "Failed", "more of it", "Movable True", "main Running", "mode Live"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
}

func TestTroubleWithTheAPIServerIsNoEnd(t *testing.T) {
	w := startWaiting(t)
	w.note(context.Background(), "the API server fails, asking it again: "+errors.New("refused").Error())
	w.updates <- at(v1alpha1.PhaseSucceeded, "")
	if err := <-w.ended; err != nil || !strings.Contains(w.out.String(), "asking it again") {
		t.Errorf("%v:\n%s", err, &w.out)
	}
}
