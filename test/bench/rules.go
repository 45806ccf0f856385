package main

import (
	"context"
	"os"

	"godwit.dev/godwit/test/bench/traces"
)

// rules replays recorded traces by both rules that end the rounds. It takes neither nodes
// nor time.
func (b *bench) rules(context.Context) error {
	all, err := traces.All()
	if err != nil {
		return err
	}
	b.compared = traces.Compare(all)
	traces.Print(os.Stdout, b.compared)
	b.hopeless = traces.Compare(traces.Hopeless())
	traces.Print(os.Stdout, b.hopeless)
	return nil
}
