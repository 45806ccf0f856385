package shim

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestAFaultServerIsToldWhatItServesOrThatNobodyNeedsIt(t *testing.T) {
	for name, c := range map[string]struct {
		said string
		want fillOrder
		err  func(error) bool
	}{
		"an order":   {`{"Store":"/run/s","Container":3,"Attempt":2}`, fillOrder{Store: "/run/s", Container: 3, Attempt: 2}, func(err error) bool { return err == nil }},
		"nothing":    {"", fillOrder{}, func(err error) bool { return errors.Is(err, io.EOF) }},
		"half of it": {`{"Store":"/ru`, fillOrder{}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "order") }},
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
			order, err := readOrder(r)
			if !c.err(err) || order != c.want {
				t.Errorf("%+v, %v", order, err)
			}
		})
	}
}
