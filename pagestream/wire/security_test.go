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
