package identity

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"godwit.dev/godwit/nodecontroller/inhost"
)

// accountDir is where a container finds its service account's token.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// unlimited is the QPS of a rest.Config without a limit; zero would be its default.
const unlimited = -1

// ErrNoCluster is returned where the API server's address or the token to talk
// to it is not to be found.
var ErrNoCluster = errors.New("no access to the cluster's API server")

// Access is how this node reaches the API server: as a kubeconfig says or, if
// its name is empty, by the service account of the pod that runs the daemon,
// also where the daemon has left its container for the host's mount namespace
// (rest.InClusterConfig finds nothing there). The token is read again as it
// changes.
//
// There is no limit on how often it is asked, as the client's own of five calls a
// second has a frozen pod wait with the commit for a second and more while others
// move: the server's priority and fairness is what protects it.
func Access(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoCluster, err)
		}
		config.QPS = unlimited
		return config, nil
	}
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("%w: this is no pod: name a kubeconfig in the daemon's configuration", ErrNoCluster)
	}
	dir := filepath.Join(inhost.ImageRoot(), accountDir)
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoCluster, err)
	}
	return &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerToken:     string(token),
		BearerTokenFile: filepath.Join(dir, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(dir, "ca.crt")},
		QPS:             unlimited,
	}, nil
}
