package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

// never is an admission that must not be asked.
func never(t *testing.T) Admit {
	return func(_ Hello, peer string) (Receiver, error) {
		t.Errorf("admission was asked about %s", peer)
		return nil, errors.New("never")
	}
}

func TestNodeOfAnotherClusterIsKeptOut(t *testing.T) {
	ours, theirs := newCluster(t), newCluster(t)
	l := ours.listen(never(t))
	// They take any server for b, so it is our side that must refuse.
	config := theirs.node("a").clientConfig("b", ALPNPages)
	config.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", l.Addr().String(), config)
	if err == nil {
		defer conn.Close()
		conn.Write((&Hello{}).encode())
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("a certificate of another authority was accepted")
	}
}

func TestListenerOfAnotherClusterIsNotTrusted(t *testing.T) {
	ours, theirs := newCluster(t), newCluster(t)
	l := theirs.listen(never(t))
	_, err := Dial(context.Background(), ours.options(l.Addr()))
	if err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("Dial = %v", err)
	}
}

func TestPeerMustHaveTheNameThatWasDialed(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	o := c.options(l.Addr())
	o.ServerName = "d"
	if _, err := Dial(context.Background(), o); err == nil || !strings.Contains(err.Error(), "valid for b, not d") {
		t.Errorf("Dial = %v", err)
	}
	if _, err := DialControl(context.Background(), l.Addr().String(), "d", c.node("a")); err == nil {
		t.Error("DialControl took b for d")
	}
}

func TestClientWithoutCertificateIsKeptOut(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	config := c.node("a").clientConfig("b", ALPNPages)
	config.Certificates = nil
	conn, err := tls.Dial("tcp", l.Addr().String(), config)
	if err == nil {
		defer conn.Close()
		_, err = conn.Read(make([]byte, 1))
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a client without a certificate was served: %v", err)
	}
}

func TestOnlyTLS13IsSpoken(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	config := c.node("a").clientConfig("b", ALPNPages)
	config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if conn, err := tls.Dial("tcp", l.Addr().String(), config); err == nil {
		conn.Close()
		t.Error("TLS 1.2 was accepted")
	}
}

func TestUnknownProtocolIsTurnedAway(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	for _, protocols := range [][]string{nil, {"h2"}} {
		config := c.node("a").clientConfig("b", ALPNPages)
		config.NextProtos = protocols
		conn, err := tls.Dial("tcp", l.Addr().String(), config)
		if err == nil {
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil {
			t.Errorf("%q was served", protocols)
		}
	}
}

func TestPlainTCPClientIsCutOff(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t), WithLimits(Limits{Handshake: 200 * time.Millisecond}))
	for name, say := range map[string]string{"speaks": "GET / HTTP/1.0\r\n\r\n", "is silent": ""} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, say)
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("client that %s is not cut off", name)
		} else if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
			t.Errorf("client that %s is not cut off", name)
		}
		conn.Close()
	}
}

func TestSilentConnectionsDoNotKeepPeersOut(t *testing.T) {
	c := newCluster(t)
	l := c.listen(to(newMemory()), WithLimits(Limits{HalfOpen: 4, Handshake: time.Minute}))
	for range 20 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if err := c.dial(c.options(l.Addr())).Close(); err != nil {
		t.Error(err)
	}
}

func TestAdmissionsRefusalIsWhatDialReturns(t *testing.T) {
	c := newCluster(t)
	secret := [32]byte{9}
	l := c.listen(func(hello Hello, peer string) (Receiver, error) {
		if peer != "a" || hello.Migration != "m-1" {
			t.Errorf("asked for %s of %s", hello.Migration, peer)
		}
		if !hello.TokenIs(secret) {
			return nil, errors.New("unknown migration\x1b[2J")
		}
		return newMemory(), nil
	})
	o := c.options(l.Addr())
	_, err := Dial(context.Background(), o)
	var refused *RefusedError
	if !errors.As(err, &refused) || err.Error() != "peer b refused: unknown migration [2J" {
		t.Errorf("Dial = %v", err)
	}
	o.Token = secret
	if err := c.dial(o).Close(); err != nil {
		t.Error(err)
	}
}

func TestSessionsOverTheLimitAreRefused(t *testing.T) {
	c := newCluster(t)
	l := c.listen(to(newMemory()), WithLimits(Limits{Sessions: 1}))
	first := c.dial(c.options(l.Addr()))
	var refused *RefusedError
	if _, err := Dial(context.Background(), c.options(l.Addr())); !errors.As(err, &refused) {
		t.Errorf("the second session: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

// shake makes a TLS connection for pages, says hello and returns the answer.
func shake(t *testing.T, c *cluster, addr net.Addr, hello []byte) (welcome, *tls.Conn) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr.String(), c.node("a").clientConfig("b", ALPNPages))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(hello); err != nil {
		t.Fatal(err)
	}
	b, err := readGreeting(conn, welcomeMagic)
	if err != nil {
		t.Fatal(err)
	}
	w, err := decodeWelcome(b)
	if err != nil {
		t.Fatal(err)
	}
	return w, conn
}

func goodHello() Hello {
	return Hello{Migration: "m-1", Streams: 2, MinVersion: minVersion, MaxVersion: maxVersion,
		PageSize: pagestream.PageSize, Window: DefaultWindow, KeepAlive: time.Second, Session: [16]byte{1}}
}

func TestHelloThatDoesNotFitIsRefusedWithTheReason(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	for name, test := range map[string]struct {
		change func(*Hello)
		want   []string
	}{
		"newer":           {func(h *Hello) { h.MinVersion, h.MaxVersion = 7, 9 }, []string{"a speaks 7 to 9", "b speaks 1 to 1", "upgrade b"}},
		"older":           {func(h *Hello) { h.MinVersion, h.MaxVersion = 0, 0 }, []string{"a speaks 0 to 0", "upgrade a"}},
		"page size":       {func(h *Hello) { h.PageSize = 65536 }, []string{"a has 65536", "b has 4096"}},
		"no streams":      {func(h *Hello) { h.Streams = 0 }, []string{"0 streams"}},
		"many streams":    {func(h *Hello) { h.Streams = MaxStreams + 1 }, []string{"17 streams"}},
		"stream number":   {func(h *Hello) { h.Stream = 2 }, []string{"stream 2 of 2"}},
		"window":          {func(h *Hello) { h.Window = 1 }, []string{"window of 1 "}},
		"huge window":     {func(h *Hello) { h.Window = 1<<32 - 1 }, []string{"window"}},
		"keepalive":       {func(h *Hello) { h.KeepAlive = time.Hour }, []string{"keepalive"}},
		"no name":         {func(h *Hello) { h.Migration = "" }, []string{"name"}},
		"name":            {func(h *Hello) { h.Migration = "a\nb" }, []string{"name"}},
		"name in no UTF8": {func(h *Hello) { h.Migration = "\xff" }, []string{"name"}},
		"long name":       {func(h *Hello) { h.Migration = strings.Repeat("a", MaxMigration+1) }, []string{"name"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := goodHello()
			test.change(&h)
			w, _ := shake(t, c, l.Addr(), h.encode())
			if !w.refused {
				t.Fatal("welcome")
			}
			for _, want := range test.want {
				if !strings.Contains(w.text, want) {
					t.Errorf("%q does not say %q", w.text, want)
				}
			}
		})
	}
}

func TestHelloOfALaterVersionWithMoreFieldsIsUnderstood(t *testing.T) {
	c := newCluster(t)
	l := c.listen(to(newMemory()))
	h := goodHello()
	h.MaxVersion = 9
	b := append(h.encode()[6:], "fields of the future"...)
	if w, _ := shake(t, c, l.Addr(), greeting(helloMagic, b)); w.refused || w.version != maxVersion {
		t.Errorf("%+v", w)
	}
}

func TestStreamsOfASessionMustFitTogether(t *testing.T) {
	c := newCluster(t)
	r := newMemory()
	l := c.listen(to(r), WithLimits(Limits{Handshake: time.Second}))
	h := goodHello()
	h.Streams = 3
	if w, _ := shake(t, c, l.Addr(), h.encode()); w.refused {
		t.Fatal(w.text)
	}
	for name, change := range map[string]func(*Hello){
		"the same number": func(*Hello) {},
		"another token":   func(h *Hello) { h.Stream, h.Token = 1, [32]byte{7} },
		"another name":    func(h *Hello) { h.Stream, h.Migration = 1, "m-2" },
		"another count":   func(h *Hello) { h.Stream, h.Streams = 1, 2 },
	} {
		h := h
		change(&h)
		if w, _ := shake(t, c, l.Addr(), h.encode()); !w.refused {
			t.Errorf("%s: welcome", name)
		}
	}
	if err := r.end(t); err == nil || !strings.Contains(err.Error(), "1 of 3 streams came") {
		t.Errorf("Closed(%v), want that streams are missing", err)
	}
}

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
	if took := time.Since(start); took > 3*time.Second {
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

func TestControlConnectionsCarryThePeersName(t *testing.T) {
	c := newCluster(t)
	l := c.listen(never(t))
	conn, err := DialControl(context.Background(), l.Addr().String(), "b", c.node("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := l.Control().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if PeerName(conn) != "b" || PeerName(accepted) != "a" {
		t.Errorf("b calls itself %q, a %q", PeerName(conn), PeerName(accepted))
	}
	for _, way := range [][2]net.Conn{{conn, accepted}, {accepted, conn}} {
		io.WriteString(way[0], "hello")
		b := make([]byte, 5)
		if _, err := io.ReadFull(way[1], b); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
	}
	l.Control().Close()
	if _, err := l.Control().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close = %v", err)
	}
	if late, err := DialControl(context.Background(), l.Addr().String(), "b", c.node("a")); err == nil {
		if _, err := late.Read(make([]byte, 1)); err == nil {
			t.Error("a closed control listener serves")
		}
		late.Close()
	}
}

func FuzzHello(f *testing.F) {
	h := goodHello()
	f.Add(h.encode()[6:])
	h.Migration, h.Streams = "", 0
	f.Add(h.encode()[6:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := decodeHello(in)
		if err != nil || h.check() != nil {
			return
		}
		if again, err := decodeHello(h.encode()[6:]); err != nil || again != h {
			t.Errorf("%+v became %+v, %v", h, again, err)
		}
	})
}

func FuzzWelcome(f *testing.F) {
	f.Add((&welcome{version: 1, minVersion: 1, maxVersion: 2, pageSize: 4096}).encode()[6:])
	f.Add((&welcome{refused: true, text: "no"}).encode()[6:])
	f.Fuzz(func(t *testing.T, in []byte) {
		w, err := decodeWelcome(in)
		if err == nil && len(w.text) > MaxText {
			t.Errorf("text of %d bytes", len(w.text))
		}
	})
}
