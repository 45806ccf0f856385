package preflight

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"godwit.dev/godwit/pagestream/wire"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// soon is when an expiry is worth a warning.
const soon = 14 * 24 * time.Hour

func certificates(_ context.Context, n *Node) []Finding {
	const feature, remedy = "certificates", "godwitctl pki issue --dir CA_DIR --name NODE --ip ADDRESS --out PKI_DIR"
	creds, err := wire.LoadCredentials(n.PKIDir)
	if err != nil {
		return missing(feature, err.Error(), remedy)
	}
	if creds.Node() != n.Name {
		return missing(feature, fmt.Sprintf("%s is node %s's, this is node %s", n.PKIDir, creds.Node(), n.Name), remedy)
	}
	expiry, err := firstExpiry(n.PKIDir)
	if err != nil {
		return missing(feature, err.Error(), remedy)
	}
	detail := fmt.Sprintf("node %s, valid until %s", creds.Node(), expiry.Format(time.DateOnly))
	if expiry.Sub(n.Now) < soon {
		return warning(feature, detail, remedy)
	}
	return ok(feature, detail)
}

// firstExpiry is when the first of authority and node certificate expires.
func firstExpiry(dir string) (time.Time, error) {
	var first time.Time
	for _, name := range []string{pki.CACertFile, pki.NodeCertFile} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return first, err
		}
		for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return first, fmt.Errorf("%s: %w", name, err)
			}
			if first.IsZero() || cert.NotAfter.Before(first) {
				first = cert.NotAfter
			}
		}
	}
	return first, nil
}
