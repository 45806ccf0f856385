package shim

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func well(err error) bool { return err == nil }

func TestAFaultServerIsToldWhatItServesOrThatNobodyNeedsIt(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		want fillOrder
		err  func(error) bool
		// prepared is how often something was prepared before the order came.
		prepared int
	}{
		"an order":          {`{"Store":"/run/s","Container":3,"Attempt":2}`, fillOrder{Store: "/run/s", Container: 3, Attempt: 2}, well, 0},
		"ahead, and then":   {`{"Store":"/run/s","Attempt":1,"Ahead":true}{"Store":"/run/s","Attempt":1}`, fillOrder{Store: "/run/s", Attempt: 1}, well, 1},
		"ahead, and no end": {`{"Store":"/run/s","Attempt":1,"Ahead":true}`, fillOrder{}, func(err error) bool { return errors.Is(err, io.EOF) }, 1},
		"nothing":           {"", fillOrder{}, func(err error) bool { return errors.Is(err, io.EOF) }, 0},
		"half of it":        {`{"Store":"/ru`, fillOrder{}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "order") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteString(c.said); err != nil {
				t.Fatal(err)
			}
			w.Close()
			prepared := 0
			order, err := awaitOrder(r, func(fillOrder) { prepared++ })
			if !c.err(err) || order != c.want || prepared != c.prepared {
				t.Errorf("%+v, %v, prepared %d times", order, err, prepared)
			}
		})
	}
}

func TestAFaultServerThatFollowsAnotherIsToldOnce(t *testing.T) {
	f := &fill{expected: make(chan struct{}), ordered: make(chan struct{})}
	told := func() string {
		r, w := io.Pipe()
		go func() { f.tell(w, nil); w.Close() }()
		all, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	f.expect(fillOrder{Store: "/run/s", Attempt: 1})
	first := make(chan string)
	r, w := io.Pipe()
	go func() { f.tell(w, nil); w.Close() }()
	go func() {
		ahead := make([]byte, 1)
		if _, err := io.ReadFull(r, ahead); err != nil {
			t.Error(err)
		}
		f.serve(fillOrder{Store: "/run/s", Attempt: 1, Container: 3})
		rest, _ := io.ReadAll(r)
		first <- string(ahead) + string(rest)
	}()
	if got := <-first; strings.Count(got, "\n") != 2 || !strings.Contains(got, `"Ahead":true`) || !strings.Contains(got, `"Container":3`) {
		t.Errorf("the first is told %q", got)
	}
	ended := make(chan struct{})
	close(ended)
	if got := told(); !strings.Contains(got, `"Ahead":false`) {
		t.Errorf("one that follows is told %q", got)
	}
	(&fill{expected: make(chan struct{}), ordered: make(chan struct{})}).tell(io.Discard, ended)
}
