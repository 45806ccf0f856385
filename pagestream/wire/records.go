package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// The records of a page stream after its handshake, by RFC 8446, 5.2. crypto/tls
// does the handshake, and could read and write the records too, but copies every
// byte twice on each side between its buffers and ours; the copies take as long
// as the encryption.

const (
	// recordSize is the most plaintext in one TLS record (RFC 8446, 5.1).
	recordSize = 16 << 10
	recordHead = 5
	// recordOverhead is what our records take beside their plaintext: head,
	// type and tag.
	recordOverhead = recordHead + 1 + tagSize
	tagSize        = 16
	// maxRecord is the size of the largest record that a peer may send.
	maxRecord = recordHead + recordSize + 256
	// renewEvery is how many records a key encrypts, below the 2^24.5 after
	// which AES-GCM should not go on (RFC 8446, 5.5).
	renewEvery = 1 << 23
)

// recordType is the type of a record's content.
type recordType uint8

const (
	recordAlert     recordType = 21
	recordHandshake recordType = 22
	recordData      recordType = 23
)

// keyUpdate is the handshake message by which a sender announces that its next
// record has a new key (RFC 8446, 4.6.3), without asking for the same.
var keyUpdate = []byte{24, 0, 0, 1, 0}

// suite is one of TLS 1.3's.
type suite struct {
	hash    func() hash.Hash
	keySize int
	aead    func(key []byte) (cipher.AEAD, error)
}

func newAESGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// suites are all that crypto/tls agrees on.
var suites = map[uint16]*suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, newAESGCM},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, newAESGCM},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, 32, chacha20poly1305.New},
}

// expand is HKDF-Expand-Label of RFC 8446, 7.1, with an empty context.
func (s *suite) expand(secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(append(append(info, byte(len(label))), label...), 0)
	return hkdf.Expand(s.hash, secret, string(info), size)
}

// protection encrypts or decrypts the records of one direction. It belongs to
// one goroutine at a time.
type protection struct {
	suite  *suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte
	number uint64 // of the next record under this key
}

func newProtection(s *suite, secret []byte) (*protection, error) {
	p := &protection{suite: s}
	return p, p.use(secret)
}

// use starts with the keys of a secret.
func (p *protection) use(secret []byte) error {
	key, err := p.suite.expand(secret, "key", p.suite.keySize)
	if err != nil {
		return fmt.Errorf("key of a TLS stream: %w", err)
	}
	iv, err := p.suite.expand(secret, "iv", len(p.iv))
	if err != nil {
		return fmt.Errorf("key of a TLS stream: %w", err)
	}
	p.aead, err = p.suite.aead(key)
	if err != nil {
		return fmt.Errorf("key of a TLS stream: %w", err)
	}
	p.secret, p.number = secret, 0
	copy(p.iv[:], iv)
	return nil
}

// renew goes on with the next key.
func (p *protection) renew() error {
	next, err := p.suite.expand(p.secret, "traffic upd", len(p.secret))
	if err != nil {
		return fmt.Errorf("key of a TLS stream: %w", err)
	}
	return p.use(next)
}

// nextNonce counts a record and returns its nonce, valid until the next call.
func (p *protection) nextNonce() []byte {
	p.nonce = p.iv
	tail := p.nonce[4:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^p.number)
	p.number++
	return p.nonce[:]
}

// seal appends a record to dst, which has room for it. content has at most
// recordSize bytes.
func (p *protection) seal(dst []byte, kind recordType, content []byte) []byte {
	size := len(content) + recordOverhead - recordHead
	start := len(dst)
	dst = append(dst, byte(recordData), 3, 3, byte(size>>8), byte(size))
	body := len(dst)
	dst = append(append(dst, content...), byte(kind))
	return p.aead.Seal(dst[:body], p.nextNonce(), dst[body:], dst[start:body])
}

// open decrypts a record into dst, which must have room for all but head and
// tag, and returns its content. Errors wrap ErrProtocol.
func (p *protection) open(dst, record []byte) (recordType, []byte, error) {
	plain, err := p.aead.Open(dst[:0], p.nextNonce(), record[recordHead:], record[:recordHead])
	if err != nil {
		return 0, nil, fmt.Errorf("TLS record: bad record MAC: %w", ErrProtocol)
	}
	end := len(plain)
	for end > 0 && plain[end-1] == 0 { // padding
		end--
	}
	if end == 0 || end > recordSize+1 {
		return 0, nil, fmt.Errorf("TLS record of %d bytes: %w", len(plain), ErrProtocol)
	}
	return recordType(plain[end-1]), plain[:end-1], nil
}

// recordLength is the length of the record that begins with head, which has
// recordHead bytes at least. Errors wrap ErrProtocol.
func recordLength(head []byte) (int, error) {
	n := recordHead + int(binary.BigEndian.Uint16(head[3:]))
	if recordType(head[0]) != recordData || n < recordOverhead || n > maxRecord {
		return 0, fmt.Errorf("TLS record of type %d with %d bytes: %w", head[0], n, ErrProtocol)
	}
	return n, nil
}

// trafficSecrets takes the secrets of a connection's records out of its
// handshake, as the tls.Config's KeyLogWriter. They stay in this process.
type trafficSecrets struct {
	client, server []byte
}

// Write implements io.Writer for lines of the NSS key log.
func (t *trafficSecrets) Write(line []byte) (int, error) {
	fields := strings.Fields(string(line))
	if len(fields) != 3 {
		return len(line), nil
	}
	var to *[]byte
	switch fields[0] {
	case "CLIENT_TRAFFIC_SECRET_0":
		to = &t.client
	case "SERVER_TRAFFIC_SECRET_0":
		to = &t.server
	default:
		return len(line), nil
	}
	secret, err := hex.DecodeString(fields[2])
	if err != nil {
		return 0, fmt.Errorf("secret of a TLS handshake: %w", err)
	}
	*to = secret
	return len(line), nil
}

var _ io.Writer = (*trafficSecrets)(nil)

// protections returns those of the client's and of the server's records.
func (t *trafficSecrets) protections(suiteID uint16) (client, server *protection, err error) {
	s := suites[suiteID]
	if s == nil || t.client == nil || t.server == nil {
		return nil, nil, fmt.Errorf("no keys for a TLS stream with %s", tls.CipherSuiteName(suiteID))
	}
	client, err = newProtection(s, t.client)
	if err != nil {
		return nil, nil, err
	}
	server, err = newProtection(s, t.server)
	return client, server, err
}

// errAlert makes an error of an alert's content.
func errAlert(content []byte) error {
	if len(content) != 2 {
		return fmt.Errorf("TLS alert of %d bytes: %w", len(content), ErrProtocol)
	}
	if content[1] == 0 { // close_notify
		return io.EOF
	}
	return fmt.Errorf("remote error: %w", tls.AlertError(content[1]))
}
