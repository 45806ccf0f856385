package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Names of the files in a credentials directory.
const (
	caCertFile   = "ca.crt"
	nodeCertFile = "node.crt"
	nodeKeyFile  = "node.key"
)

// Credentials are a node's certificate, its key and the authority that it
// trusts, read from a directory. Before each handshake the files are looked
// at; if they have changed and fit together they are used from then on, else
// the old ones stay in use and a warning is logged. Connections that exist
// keep the certificate that they were made with.
type Credentials struct {
	dir string

	mu      sync.Mutex // guards what follows
	current *identity
	read    fileStamps // of the files behind current
	refused fileStamps // of the last files that did not fit
}

// identity is one consistent state of the credentials.
type identity struct {
	node        string
	certificate tls.Certificate
	authorities *x509.CertPool
}

// fileStamps tell whether a file has been replaced or written.
type fileStamps [3]struct {
	inode uint64
	size  int64
	mtime time.Time
}

// LoadCredentials reads ca.crt (one or more authorities), node.crt (the
// node's certificate, then intermediates if any) and node.key from a
// directory. An error wraps ErrCredentials and names the file and the remedy.
func LoadCredentials(dir string) (*Credentials, error) {
	c := &Credentials{dir: dir}
	stamps, err := c.stat()
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(dir, time.Now())
	if err != nil {
		return nil, err
	}
	c.current, c.read = id, stamps
	return c, nil
}

// Node is this node's name, the common name of its certificate.
func (c *Credentials) Node() string { return c.identity().node }

// identity returns the newest usable state.
func (c *Credentials) identity() *identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Stamps are taken before the files are read: what changes in between is
	// read again next time.
	stamps, err := c.stat()
	if err == nil && (stamps == c.read || stamps == c.refused) {
		return c.current
	}
	var id *identity
	if err == nil {
		id, err = readIdentity(c.dir, time.Now())
	}
	if err == nil && id.node != c.current.node {
		err = fmt.Errorf("%s is for node %s, but this is %s: restart to change a node's name: %w",
			filepath.Join(c.dir, nodeCertFile), id.node, c.current.node, ErrCredentials)
	}
	if err != nil {
		if stamps != c.refused || stamps == (fileStamps{}) {
			slog.Warn("certificates have changed and are not usable: staying with the old ones", "error", err)
		}
		c.refused = stamps
		return c.current
	}
	c.current, c.read = id, stamps
	return id
}

func (c *Credentials) stat() (fileStamps, error) {
	var stamps fileStamps
	for i, name := range []string{caCertFile, nodeCertFile, nodeKeyFile} {
		path := filepath.Join(c.dir, name)
		info, err := os.Stat(path)
		if err != nil {
			return fileStamps{}, fmt.Errorf("%w: %w: make it with \"godwitctl pki\" or point to its directory", ErrCredentials, err)
		}
		if name == nodeKeyFile && info.Mode().Perm()&0o077 != 0 {
			return fileStamps{}, fmt.Errorf("%w: %s is open to others (mode %04o): chmod 600 it, and renew it if others were here",
				ErrCredentials, path, info.Mode().Perm())
		}
		stamps[i].size, stamps[i].mtime = info.Size(), info.ModTime()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			stamps[i].inode = st.Ino
		}
	}
	return stamps, nil
}

func readIdentity(dir string, now time.Time) (*identity, error) {
	caPath, certPath := filepath.Join(dir, caCertFile), filepath.Join(dir, nodeCertFile)
	caPEM, err := os.ReadFile(caPath)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCredentials, err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("%w: %s holds no certificate in PEM: put the cluster's authority there", ErrCredentials, caPath)
	}
	certificate, err := tls.LoadX509KeyPair(certPath, filepath.Join(dir, nodeKeyFile))
	if err != nil {
		return nil, fmt.Errorf("%w: %s and %s: %w: issue both anew with \"godwitctl pki\"", ErrCredentials, certPath, nodeKeyFile, err)
	}
	name, err := nodeName(certificate.Leaf)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCredentials, certPath, err)
	}
	intermediates := x509.NewCertPool()
	for _, der := range certificate.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(cert)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: authorities, Intermediates: intermediates,
			CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
		if err != nil {
			return nil, fmt.Errorf("%w: %s does not stand up to %s: %w: issue it anew with \"godwitctl pki\"",
				ErrCredentials, certPath, caPath, err)
		}
	}
	return &identity{node: name, certificate: certificate, authorities: authorities}, nil
}

// nodeName is the common name of a node's certificate, which must be one of
// its DNS names: only those are what an authority vouches for.
func nodeName(leaf *x509.Certificate) (string, error) {
	name := leaf.Subject.CommonName
	if name == "" {
		return "", errors.New("certificate without a common name: it must be the node's name")
	}
	if err := leaf.VerifyHostname(name); err != nil || net.ParseIP(name) != nil {
		return "", fmt.Errorf("certificate's common name %q is not among its DNS names %q", name, leaf.DNSNames)
	}
	return name, nil
}

// PeerName is the node name of the other side of a connection that this
// package made: an accepted control connection or one of DialControl. It is
// empty for any other connection.
func PeerName(conn net.Conn) string {
	c, ok := conn.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return ""
	}
	state := c.ConnectionState()
	if len(state.VerifiedChains) == 0 {
		return ""
	}
	name, err := nodeName(state.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return name
}

// serverConfig takes the newest credentials when the connection's hello comes.
// secrets get those of the handshake.
func (c *Credentials) serverConfig(secrets io.Writer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := c.identity().config(ALPNPages, ALPNControl, ALPNDemand)
			config.ClientAuth = tls.RequireAndVerifyClientCert
			config.KeyLogWriter = secrets
			config.VerifyConnection = func(state tls.ConnectionState) error {
				_, err := nodeName(state.PeerCertificates[0])
				return err
			}
			return config, nil
		},
	}
}

func (c *Credentials) clientConfig(serverName, protocol string) *tls.Config {
	config := c.identity().config(protocol)
	config.ServerName = serverName
	config.VerifyConnection = func(state tls.ConnectionState) error {
		// The chain and a DNS name fit already. A name by which a certificate
		// of another node may be reached is not that node's name.
		name, err := nodeName(state.PeerCertificates[0])
		if err == nil && name != serverName {
			err = fmt.Errorf("certificate is node %s's, want %s's", name, serverName)
		}
		return err
	}
	return config
}

func (id *identity) config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.certificate},
		RootCAs:      id.authorities,
		ClientCAs:    id.authorities,
		NextProtos:   protocols,
		// A resumed session would not look at the certificates again.
		SessionTicketsDisabled: true,
		// Bulk data: full records from the first byte.
		DynamicRecordSizingDisabled: true,
	}
}
