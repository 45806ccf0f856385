package wire

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
)

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
	l := c.listen(to(r), WithLimits(Limits{Handshake: 4 * time.Second}))
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
