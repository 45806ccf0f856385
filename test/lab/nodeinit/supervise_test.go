package nodeinit

import (
	"testing"
	"time"
)

func TestServiceWithoutItsBinaryIsLookedForAgain(t *testing.T) {
	now := time.Now()
	s := &service{spec: Service{Args: []string{"/nonexistent"}, Optional: true}, ServiceStatus: ServiceStatus{Name: "x", State: Restarting}}
	if next := startDue([]*service{s}, now); s.State != Missing || next <= 0 || next > time.Second {
		t.Errorf("state %s, again in %s", s.State, next)
	}
}

func TestServiceThatCannotStartIsTriedAgainLater(t *testing.T) {
	now := time.Now()
	s := &service{spec: Service{Args: []string{"/nonexistent"}}, ServiceStatus: ServiceStatus{Name: "no/such/log", State: Restarting}}
	next := startDue([]*service{s}, now)
	if s.State != Restarting || s.Restarts != 1 || s.LastExit == "" || next <= 0 || next > RestartAfter {
		t.Errorf("status %+v, again in %s", s.ServiceStatus, next)
	}
	startDue([]*service{s}, now.Add(RestartAfter/2))
	if s.Restarts != 1 {
		t.Error("it was tried before its time")
	}
}

func TestServiceStartsAfterTheOneItNeeds(t *testing.T) {
	now := time.Now()
	first := &service{ServiceStatus: ServiceStatus{Name: "first", State: Starting}}
	second := &service{spec: Service{Args: []string{"/nonexistent"}, After: "first"}, ServiceStatus: ServiceStatus{Name: "no/such/log", State: Restarting}}
	if next := startDue([]*service{first, second}, now); second.Restarts != 0 || next < time.Minute {
		t.Errorf("it was started before the other was ready, or is looked at again in %s", next)
	}
	first.State = Running
	if startDue([]*service{first, second}, now); second.Restarts != 1 {
		t.Error("it was not started when the other ran")
	}
}

func TestSenderOfGarbageIsNobody(t *testing.T) {
	for _, b := range [][]byte{nil, {1, 2, 3}, make([]byte, 64)} {
		if pid, ok := sender(b); ok {
			t.Errorf("%v is from %d", b, pid)
		}
	}
}
