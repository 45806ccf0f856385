package kubernetes

import (
	"log/slog"
	"testing"

	"k8s.io/client-go/rest"
)

func TestADaemonStartsWithoutAnAPIServer(t *testing.T) {
	nobody := &rest.Config{Host: "https://127.0.0.1:1"}
	cl, err := Connect(Options{Node: "a", Access: nobody, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := cl.newController(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.setup(cl.manager); err != nil {
		t.Fatal(err)
	}
}
