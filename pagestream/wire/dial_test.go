package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// answering is a listener that answers each hello with the given welcome.
func answering(t *testing.T, c *cluster, w welcome) net.Addr {
	l, err := tls.Listen("tcp", "127.0.0.1:0", c.node("b").serverConfig(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := readGreeting(conn, helloMagic); err == nil {
				conn.Write(w.encode())
			}
			conn.Close()
		}
	}()
	return l.Addr()
}

func TestDialSaysWhoSpeaksWhat(t *testing.T) {
	c := newCluster(t)
	for name, test := range map[string]struct {
		answer welcome
		want   string
		is     error
	}{
		"version":      {welcome{refused: true, minVersion: 4, maxVersion: 5, pageSize: 4096}, "a speaks 1 to 1, b speaks 4 to 5: upgrade a", ErrMismatch},
		"page size":    {welcome{refused: true, minVersion: 1, maxVersion: 1, pageSize: 16384}, "a has 4096 bytes, b has 16384", ErrMismatch},
		"wrong choice": {welcome{version: 3, minVersion: 1, maxVersion: 1, pageSize: 4096}, "version 3", ErrProtocol},
		"hangs up":     {welcome{version: 1, minVersion: 1, maxVersion: 1, pageSize: 4096}, "connection lost", nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.options(answering(t, c, test.answer))
			s, err := Dial(context.Background(), o)
			if err == nil { // welcome, and then hung up
				<-s.Done()
				err = s.Err()
				s.Abort(err)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("Dial = %v, want %q", err, test.want)
			}
		})
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	c := newCluster(t)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Dial(ctx, c.options(l.Addr())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
	if _, err := DialControl(ctx, l.Addr().String(), "b", c.node("a")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("DialControl = %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

func TestDialOptionsOutOfBoundsAreRefused(t *testing.T) {
	c := newCluster(t)
	for name, change := range map[string]func(*DialOptions){
		"no credentials": func(o *DialOptions) { o.Credentials = nil },
		"no name":        func(o *DialOptions) { o.ServerName = "" },
		"streams":        func(o *DialOptions) { o.Streams = MaxStreams + 1 },
		"compression":    func(o *DialOptions) { o.Compression = 9 },
		"window":         func(o *DialOptions) { o.Window = MinWindow - 1 },
		"bandwidth":      func(o *DialOptions) { o.Bandwidth = -1 },
		"migration":      func(o *DialOptions) { o.Migration = "" },
	} {
		o := c.options(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
		change(&o)
		if _, err := Dial(context.Background(), o); err == nil || !strings.HasPrefix(err.Error(), "dial options") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
