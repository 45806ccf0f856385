package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Names of the files. A node needs the first three in one directory; the
// authority's key stays where the authority was made.
const (
	CACertFile   = "ca.crt"
	NodeCertFile = "node.crt"
	NodeKeyFile  = "node.key"
	CAKeyFile    = "ca.key"
)

// ErrExists is wrapped by Init's error when the directory has an authority.
var ErrExists = errors.New("a certificate authority is there already")

// Init makes a new authority and writes ca.crt and ca.key into the directory,
// which is made, for root only, if need be. It never replaces an authority:
// every certificate of the cluster would be worth nothing; the error then
// wraps ErrExists.
func Init(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("certificate authority's directory: %w", err)
	}
	for _, name := range []string{CAKeyFile, CACertFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return fmt.Errorf("%s: %w: use it, or remove it to begin anew", filepath.Join(dir, name), ErrExists)
		}
	}
	ca, err := NewCA("Godwit cluster")
	if err != nil {
		return err
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	if err := writeFile(dir, CAKeyFile, key, 0o600); err != nil {
		return err
	}
	return writeFile(dir, CACertFile, ca.CertPEM(), 0o644)
}

// LoadCA reads the authority that Init wrote.
func LoadCA(dir string) (*CA, error) {
	cert, err := os.ReadFile(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, err
	}
	ca, err := ParseCA(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return ca, nil
}

// ParseCA reads an authority from what CertPEM and KeyPEM gave.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	certBlock, err := decodePEM(certPEM, CACertFile, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CACertFile, err)
	}
	keyBlock, err := decodePEM(keyPEM, CAKeyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	keyAny, err := x509.ParsePKCS8PrivateKey(keyBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", CAKeyFile, err)
	}
	key, ok := keyAny.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a %T, need an ECDSA key as pki init makes it", CAKeyFile, keyAny)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s do not belong together", CACertFile, CAKeyFile)
	}
	return &CA{cert: cert, key: key}, nil
}

// Issue makes a certificate for a node with the authority in caDir and writes
// ca.crt, node.crt and node.key (mode 0600) into outDir, which is made, for
// root only, if need be. Files that are there are replaced: that is how a
// certificate is renewed. Each file is replaced whole, the key first; a
// running node goes on with the old pair until both are new.
func Issue(caDir, node string, ips []net.IP, outDir string) error {
	ca, err := LoadCA(caDir)
	if err != nil {
		return fmt.Errorf("certificate authority: %w", err)
	}
	cert, key, err := ca.Issue(node, ips)
	if err != nil {
		return err
	}
	return Write(outDir, ca.CertPEM(), cert, key)
}

// Write puts a node's ca.crt, node.crt and node.key (mode 0600) into a
// directory, as Issue does.
func Write(dir string, ca, cert, key []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory for certificates: %w", err)
	}
	if err := writeFile(dir, NodeKeyFile, key, 0o600); err != nil {
		return err
	}
	if err := writeFile(dir, NodeCertFile, cert, 0o644); err != nil {
		return err
	}
	return writeFile(dir, CACertFile, ca, 0o644)
}

func decodePEM(data []byte, name, blockType string) ([]byte, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockType {
		return nil, fmt.Errorf("%s: no PEM block %q", name, blockType)
	}
	return block.Bytes, nil
}

// writeFile replaces a file in one step, so that no reader sees half of it and
// a symbolic link at its place is not followed.
func writeFile(dir, name string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(dir, "."+name+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}
