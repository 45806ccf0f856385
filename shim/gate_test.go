package shim

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestContainersRunWhenTheLastOfThemCould(t *testing.T) {
	g := newGate(2)
	g.limit = time.Hour
	passed := make(chan error, 2)
	for range 2 {
		go func() { passed <- g.pass(t.Context()) }()
	}
	g.arrive()
	select {
	case <-passed:
		t.Fatal("one ran before the other could")
	case <-time.After(10 * time.Millisecond):
	}
	g.arrive()
	for range 2 {
		if err := <-passed; err != nil {
			t.Error(err)
		}
	}
}

func TestAContainerDoesNotWaitForOneThatHangs(t *testing.T) {
	g := newGate(2)
	g.arrive()
	if err := g.pass(t.Context()); err != nil {
		t.Error(err)
	}
	var open *gate
	open.arrive()
	if err := open.pass(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAContainerWhoseRestoreEndsDoesNotPass(t *testing.T) {
	ctx, end := context.WithCancelCause(t.Context())
	end(errRuncEnded)
	g := newGate(2)
	g.arrive()
	if err := g.pass(ctx); !errors.Is(err, errRuncEnded) {
		t.Errorf("it passed: %v", err)
	}
}
