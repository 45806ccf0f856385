package nodecontroller

import (
	"context"
	"errors"
	"testing"
)

func TestCutoversTakeTurnsInTheOrderInWhichTheyAsked(t *testing.T) {
	var turns turns
	if err := turns.take(t.Context(), func() { t.Error("it waited for nobody") }); err != nil {
		t.Fatal(err)
	}
	const others = 5
	order := make(chan int, others)
	inTurn := 0 // by whoever has the turn
	for i := range others {
		queued := make(chan struct{})
		go func() {
			if err := turns.take(context.Background(), func() { close(queued) }); err != nil {
				t.Error(err)
			}
			if inTurn++; inTurn != 1 {
				t.Errorf("%d have the turn", inTurn)
			}
			order <- i
			inTurn--
			turns.give()
		}()
		<-queued
	}
	turns.give()
	for i := range others {
		if got := <-order; got != i {
			t.Errorf("number %d had the turn when it was that of %d", got, i)
		}
	}
}

func TestWhoIsBrokenOffDoesNotWaitForItsTurn(t *testing.T) {
	var turns turns
	if err := turns.take(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, breakOff := context.WithCancelCause(t.Context())
	err := turns.take(ctx, func() { breakOff(ErrCancelled) })
	if !errors.Is(err, ErrCancelled) {
		t.Errorf("got %v", err)
	}
	turns.give()
	if err := turns.take(t.Context(), func() { t.Error("the turn was not given back") }); err != nil {
		t.Error(err)
	}
}
