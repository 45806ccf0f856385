package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"godwit.dev/godwit/test/vm/guest"
)

func TestExitCodeIsAShells(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0}, {[]string{"sh", "-c", "exit 3"}, 3}, {[]string{"sh", "-c", "kill -9 $$"}, 137}, {[]string{"/no/such/thing"}, 127},
	} {
		if have := exitCode(exec.Command(c.args[0], c.args[1:]...).Run()); have != c.want {
			t.Errorf("%q: %d, want %d", c.args, have, c.want)
		}
	}
}

func TestAStepTellsWhatItWritesAndHowItEnds(t *testing.T) {
	r, w := io.Pipe()
	h := &host{enc: json.NewEncoder(w)}
	go func() {
		step := guest.Step{Args: []string{"sh", "-c", `echo "$A $B"; exit 4`}, Env: []string{"B=2"}}
		w.CloseWithError(errors.Join(h.run(5, step, []string{"A=1"}), io.EOF))
	}()
	var wrote strings.Builder
	for dec := json.NewDecoder(r); ; {
		var m guest.Message
		if err := dec.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if m.Step != 5 {
			t.Errorf("step %d", m.Step)
		}
		wrote.Write(m.Output)
		if m.Ended == nil {
			continue
		}
		if m.Ended.Code != 4 || m.Ended.Error == "" {
			t.Errorf("%+v", m.Ended)
		}
		break
	}
	if wrote.String() != "1 2\n" {
		t.Errorf("it wrote %q", wrote.String())
	}
}
