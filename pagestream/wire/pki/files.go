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
	certBlock, err := readPEM(filepath.Join(dir, CACertFile), "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(certBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CACertFile), err)
	}
	keyBlock, err := readPEM(filepath.Join(dir, CAKeyFile), "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	keyAny, err := x509.ParsePKCS8PrivateKey(keyBlock)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, CAKeyFile), err)
	}
	key, ok := keyAny.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a %T, need an ECDSA key as pki init makes it", filepath.Join(dir, CAKeyFile), keyAny)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s and %s in %s do not belong together", CACertFile, CAKeyFile, dir)
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
	if err := os.MkdirAll(outDir, 0o700); err != nil {
		return fmt.Errorf("directory for node %s: %w", node, err)
	}
	if err := writeFile(outDir, NodeKeyFile, key, 0o600); err != nil {
		return err
	}
	if err := writeFile(outDir, NodeCertFile, cert, 0o644); err != nil {
		return err
	}
	return writeFile(outDir, CACertFile, ca.CertPEM(), 0o644)
}

func readPEM(path, blockType string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != blockType {
		return nil, fmt.Errorf("%s: no PEM block %q", path, blockType)
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
