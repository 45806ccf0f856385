package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// pair is a page connection of ours and what speaks TLS to it.
func pair(t *testing.T, ourClient bool, renewal uint64) (*pageConn, *tls.Conn) {
	t.Helper()
	c := newCluster(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })

	var secrets trafficSecrets
	clientTCP, serverTCP := dialed, accepted
	clientConfig, serverConfig := c.node("a").clientConfig("b", ALPNPages), c.node("b").serverConfig(nil)
	batch := &batchConn{TCPConn: accepted.(*net.TCPConn), handover: true}
	if ourClient {
		batch.TCPConn = dialed.(*net.TCPConn)
		clientTCP, clientConfig.KeyLogWriter = batch, &secrets
	} else {
		serverTCP, serverConfig = batch, c.node("b").serverConfig(&secrets)
	}
	client, server := tls.Client(clientTCP, clientConfig), tls.Server(serverTCP, serverConfig)
	ours, theirs := server, client
	if ourClient {
		ours, theirs = client, server
	}
	// Their data follows the handshake at once: it must not be read with it.
	shaken := make(chan error, 1)
	go func() {
		err := theirs.Handshake()
		if err == nil {
			_, err = theirs.Write([]byte("early"))
		}
		shaken <- err
	}()
	if err := errors.Join(ours.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	page, err := newPageConn(ours, batch, &secrets, ourClient)
	if err != nil {
		t.Fatal(err)
	}
	page.renewal = renewal
	early := make([]byte, 5)
	if _, err := io.ReadFull(page, early); err != nil || string(early) != "early" {
		t.Fatalf("read %q, %v", early, err)
	}
	return page, theirs
}

func TestPageConnAndTLSUnderstandEachOther(t *testing.T) {
	data := make([]byte, 3*writeBatch+12345)
	fillRandom(data)
	for name, ourClient := range map[string]bool{"client": true, "server": false} {
		for _, renewal := range []uint64{renewEvery, 2} { // every other record with a new key
			page, theirs := pair(t, ourClient, renewal)
			sent := make(chan error, 1)
			go func() {
				page.batchWrites()
				_, err := page.Write(data)
				sent <- err
			}()
			got := make([]byte, len(data))
			if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s, a key for %d records: TLS reads something else, or %v", name, renewal, err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			go func() {
				_, err := theirs.Write(data)
				sent <- errors.Join(err, theirs.CloseWrite())
			}()
			page.batchReads()
			got, err := io.ReadAll(page)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: read something else, or %v", name, err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
	}
}

// testProtection returns the two ends of a direction.
func testProtection(t testing.TB, id uint16) (sealing, opening *protection) {
	t.Helper()
	s := suites[id]
	secret := bytes.Repeat([]byte{7}, s.hash().Size())
	sealing, err := newProtection(s, secret)
	if err != nil {
		t.Fatal(err)
	}
	opening, err = newProtection(s, secret)
	if err != nil {
		t.Fatal(err)
	}
	return sealing, opening
}

func TestRecordsOfEachSuiteComeThroughAndAKeyIsRenewed(t *testing.T) {
	for id := range suites {
		sealing, opening := testProtection(t, id)
		for i := range 4 {
			if i == 2 {
				if err := errors.Join(sealing.renew(), opening.renew()); err != nil {
					t.Fatal(err)
				}
			}
			content := bytes.Repeat([]byte{byte(i)}, i*1000) // zeros at the end are not padding
			record := sealing.seal(nil, recordData, content)
			if n, err := recordLength(record); err != nil || n != len(record) {
				t.Errorf("%s: length %d, %v", tls.CipherSuiteName(id), n, err)
			}
			kind, got, err := opening.open(make([]byte, maxRecord), record)
			if err != nil || kind != recordData || !bytes.Equal(got, content) {
				t.Errorf("%s: record %d came through as type %d, %d bytes, %v", tls.CipherSuiteName(id), i, kind, len(got), err)
			}
		}
	}
}

func TestChangedReorderedOrRepeatedRecordIsRefused(t *testing.T) {
	for name, change := range map[string]func(first, second []byte) []byte{
		"changed body":   func(first, _ []byte) []byte { first[recordHead] ^= 1; return first },
		"changed head":   func(first, _ []byte) []byte { first[1] ^= 1; return first },
		"later first":    func(_, second []byte) []byte { return second },
		"without a type": nil,
	} {
		sealing, opening := testProtection(t, tls.TLS_AES_128_GCM_SHA256)
		first := sealing.seal(nil, recordData, []byte("one"))
		second := sealing.seal(nil, recordData, []byte("two"))
		record := first
		if change != nil {
			record = change(first, second)
		} else {
			again, _ := testProtection(t, tls.TLS_AES_128_GCM_SHA256)
			record = again.seal(nil, 0, make([]byte, 10))
		}
		if _, _, err := opening.open(make([]byte, maxRecord), record); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	sealing, opening := testProtection(t, tls.TLS_AES_128_GCM_SHA256)
	record := sealing.seal(nil, recordData, []byte("one"))
	if _, _, err := opening.open(make([]byte, maxRecord), record); err != nil {
		t.Fatal(err)
	}
	if _, _, err := opening.open(make([]byte, maxRecord), record); !errors.Is(err, ErrProtocol) {
		t.Errorf("repeated: %v", err)
	}
}

func TestWhatPeersTLSSaysEndsAPageConn(t *testing.T) {
	for name, test := range map[string]struct {
		kind    recordType
		content []byte
		want    string
	}{
		"close":            {recordAlert, []byte{1, 0}, io.EOF.Error()},
		"bad certificate":  {recordAlert, []byte{2, 42}, "remote error: tls: bad certificate"},
		"half an alert":    {recordAlert, []byte{2}, "alert of 1 bytes"},
		"a key is asked":   {recordHandshake, []byte{24, 0, 0, 1, 1}, "type 22"},
		"unknown type":     {99, []byte{1}, "type 99"},
		"handshake in two": {recordHandshake, keyUpdate[:3], "type 22"},
	} {
		var c pageConn
		if err := c.told(test.kind, test.content); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// What a peer with the right key sends, cut as it likes, must neither hang nor
// come through as something else.
func FuzzPageConnRead(f *testing.F) {
	f.Add([]byte{23, 3, 3, 0, 17}, uint16(1), byte(23))
	f.Add([]byte{}, uint16(recordSize), byte(23))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, tail []byte, size uint16, kind byte) {
		sealing, opening := testProtection(t, tls.TLS_AES_128_GCM_SHA256)
		content := bytes.Repeat([]byte{1}, min(int(size), recordSize))
		client, server := socketPair(t)
		stream := append(sealing.seal(nil, recordType(kind), content), tail...)
		go func() {
			client.Write(stream)
			client.Close()
		}()
		c := &pageConn{batch: &batchConn{TCPConn: server}, opening: *opening, in: make([]byte, maxRecord), scratch: make([]byte, maxRecord)}
		got, err := io.ReadAll(c)
		if len(got) > 0 && (recordType(kind) != recordData || !bytes.Equal(got, content)) {
			t.Errorf("read %d bytes of a record of type %d with %d", len(got), kind, len(content))
		}
		if err == nil && recordType(kind) == recordData && len(got) != len(content) {
			t.Errorf("read %d bytes of %d", len(got), len(content))
		}
	})
}

// socketPair is a TCP connection.
func socketPair(t *testing.T) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); server.Close() })
	return dialed.(*net.TCPConn), server
}
