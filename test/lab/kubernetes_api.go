package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// apiClient asks the API server what an up has to know; everybody else has kubectl, or client-go.
type apiClient struct {
	server string
	http   http.Client
}

// statusError is an answer that is no success.
type statusError struct {
	code    int
	message string
}

func (e statusError) Error() string {
	return fmt.Sprintf("API server: status %d: %s", e.code, e.message)
}

// newAPIClient speaks for the administrator.
func newAPIClient(a *authority, server string) (*apiClient, error) {
	s := administrator
	s.usage = x509.ExtKeyUsageClientAuth
	p, err := a.issue(s)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", s.name, err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &apiClient{server: server, http: http.Client{
		Timeout:   5 * time.Second, // of one question: what did not answer is asked again
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}},
	}}, nil
}

func (c *apiClient) close() { c.http.CloseIdleConnections() }

// get asks for an object, or for nothing but success.
func (c *apiClient) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, "application/json", nil, into)
}

// create makes an object in the collection at path.
func (c *apiClient) create(ctx context.Context, path string, object any) error {
	body, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, "application/json", body, nil)
}

// apply makes an object at path, or changes it, to what the YAML says.
func (c *apiClient) apply(ctx context.Context, path string, object []byte) error {
	return c.do(ctx, http.MethodPatch, path+"?fieldManager=godwit-lab&force=true", "application/apply-patch+yaml", object, nil)
}

func (c *apiClient) do(ctx context.Context, method, path, kind string, body []byte, into any) error {
	request, err := http.NewRequestWithContext(ctx, method, c.server+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	request.Header.Set("Content-Type", kind)
	answer, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	if answer.StatusCode/100 != 2 {
		return statusError{code: answer.StatusCode, message: tail(content)}
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(content, into); err != nil {
		return fmt.Errorf("API server: %s: %w", path, err)
	}
	return nil
}
