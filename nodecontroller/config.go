package nodecontroller

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
	"godwit.dev/godwit/pagestream/wire/pki"
)

// ConfigFile is where the daemon's configuration is unless it is told otherwise.
const ConfigFile = "/etc/godwit/node.toml"

// DefaultPort is the one port of a node daemon unless its configuration says
// otherwise.
const DefaultPort = 7440

// Config is a node daemon's configuration file, TOML.
type Config struct {
	// NodeName is the name in this node's certificate. Required.
	NodeName string `toml:"node_name"`
	// Listen is the address of the one port for peers.
	Listen string `toml:"listen"`
	// Advertise is where peers reach that port, host:port. Required with peers
	// that do not know this node from their own file.
	Advertise string `toml:"advertise"`
	// Socket is where godwitctl finds the daemon.
	Socket string `toml:"socket"`
	// Containerd is containerd's socket.
	Containerd string `toml:"containerd"`
	// PKIDir has ca.crt, node.crt and node.key.
	PKIDir string `toml:"pki_dir"`
	// StateDir has the journal and the mount points of the stores.
	StateDir string `toml:"state_dir"`
	// StoreLimit is what all stores together may take of this node's memory.
	StoreLimit Bytes `toml:"store_limit"`
	// MaxIncoming is how many migrations this node takes in at a time.
	MaxIncoming int `toml:"max_incoming"`
	// BandwidthLimit is what all migrations from this node together may take of its
	// link: "1gbit". 0 means that it is not limited.
	BandwidthLimit Rate `toml:"bandwidth_limit"`
	// Moves is how many pods leave this node at a time; more wait in a queue. 0 means the
	// default, less than 0 no limit.
	Moves int `toml:"moves"`
	// MetricsListen is the address at which /metrics and /healthz are served, over
	// plain HTTP; empty means that they are not.
	MetricsListen string `toml:"metrics_listen"`
	// PodCgroupParent replaces the cgroup parent of incoming pods, if set.
	PodCgroupParent string `toml:"pod_cgroup_parent"`
	// LogRoot is the directory in which incoming pods' log directories may be.
	LogRoot string `toml:"log_root"`
	// PullTimeout is how long a registry may take; "0s" means that images
	// always come from the source.
	PullTimeout Duration `toml:"pull_timeout"`
	// StuckAfter is how long a leaving pod stays frozen while nothing of its move gets on,
	// and a second for each 256 MiB of its memory more: then it runs on here.
	StuckAfter Duration `toml:"stuck_after"`
	// Peers are the other nodes: name to host:port. They may change while the
	// daemon runs.
	Peers map[string]string `toml:"peers"`
	// Kubernetes is the cluster that this node is one of, if any.
	Kubernetes Kubernetes `toml:"kubernetes"`
}

// Kubernetes says how a daemon takes part in a cluster.
type Kubernetes struct {
	// Enabled: the node's certificate comes from the cluster, and PodMigrations
	// are acted on.
	Enabled bool `toml:"enabled"`
	// Kubeconfig is how to reach the API server; empty means by the service account
	// of the pod that the daemon runs in.
	Kubeconfig string `toml:"kubeconfig"`
	// Namespace is Godwit's own.
	Namespace string `toml:"namespace"`
	// Signer signs this node's certificate, by the cluster's CSR API. Empty means that
	// somebody else sees to it that pki_dir has one.
	Signer string `toml:"signer"`
	// Moves is moves above, where that is not set.
	Moves int `toml:"moves"`
	// PeerPort is where daemons of other nodes listen, by their nodes' InternalIP.
	PeerPort int `toml:"peer_port"`
}

// Environment variables that replace what a configuration shared by many nodes
// cannot say. EnvNodeName replaces node_name; EnvNodeIP replaces the address in
// listen and advertise, with listen's port.
const (
	EnvNodeName = "GODWIT_NODE_NAME"
	EnvNodeIP   = "GODWIT_NODE_IP"
)

// Bytes is an amount of memory in a configuration: 4294967296, or "4GiB".
type Bytes uint64

// UnmarshalText reads a number with an optional unit of 1024's powers.
func (b *Bytes) UnmarshalText(text []byte) error {
	n, err := ParseBytes(string(text))
	*b = Bytes(n)
	return err
}

// ParseBytes reads an amount of bytes: digits, then nothing, or K, M, G or T
// with or without iB.
func ParseBytes(s string) (uint64, error) {
	digits := strings.TrimRight(s, "KMGTiB")
	var n uint64
	if _, err := fmt.Sscanf(digits, "%d", &n); err != nil || fmt.Sprint(n) != digits {
		return 0, fmt.Errorf("%q is no amount of bytes: write 1073741824 or 1GiB", s)
	}
	shift, ok := map[string]uint{"": 0, "B": 0, "K": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40}[s[len(digits):]]
	if !ok || n<<shift>>shift != n {
		return 0, fmt.Errorf("%q is no amount of bytes: write 1073741824 or 1GiB", s)
	}
	return n << shift, nil
}

// Duration is a time in a configuration: "90s".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration does.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

func defaultConfig() Config {
	return Config{
		Listen:      ":" + strconv.Itoa(DefaultPort),
		Socket:      nodev1.Socket,
		Containerd:  "/run/containerd/containerd.sock",
		PKIDir:      "/etc/godwit/pki",
		StateDir:    "/var/lib/godwit",
		MaxIncoming: 4,
		LogRoot:     "/var/log/pods",
		PullTimeout: Duration(2 * time.Minute),
		StuckAfter:  Duration(10 * time.Second),
		Kubernetes:  Kubernetes{Namespace: "godwit-system", Signer: v1alpha1.SignerPeer, PeerPort: DefaultPort},
	}
}

// LoadConfig reads and checks a configuration file. A key that does not exist
// is an error.
func LoadConfig(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c := defaultConfig()
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, fmt.Errorf("configuration %s: unknown key:\n%s", path, strict.String())
		}
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := c.override(os.Getenv); err != nil {
		return nil, err
	}
	if err := c.valid(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return &c, nil
}

// override takes from the environment what it has.
func (c *Config) override(env func(string) string) error {
	if name := env(EnvNodeName); name != "" {
		c.NodeName = name
	}
	ip := env(EnvNodeIP)
	if ip == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(c.Listen)
	if net.ParseIP(ip) == nil || err != nil {
		return fmt.Errorf("%s=%q with listen = %q make no address", EnvNodeIP, ip, c.Listen)
	}
	c.Listen = net.JoinHostPort(ip, port)
	c.Advertise = c.Listen
	return nil
}

func (c *Config) valid() error {
	if err := pki.CheckNodeName(c.NodeName); err != nil {
		return fmt.Errorf("node_name: %w", err)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if c.MetricsListen != "" {
		if _, _, err := net.SplitHostPort(c.MetricsListen); err != nil {
			return fmt.Errorf("metrics_listen: %w", err)
		}
	}
	if c.Advertise != "" {
		if err := checkAddress(c.Advertise); err != nil {
			return fmt.Errorf("advertise: %w", err)
		}
	}
	for key, dir := range map[string]string{"socket": c.Socket, "containerd": c.Containerd, "pki_dir": c.PKIDir, "state_dir": c.StateDir, "log_root": c.LogRoot} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s: %q is no absolute path", key, dir)
		}
	}
	if c.MaxIncoming < 1 {
		return fmt.Errorf("max_incoming: %d: a node takes in at least one migration", c.MaxIncoming)
	}
	if c.StuckAfter < Duration(time.Second) {
		return fmt.Errorf("stuck_after: %v: less than 1s, in which any move may be stuck", time.Duration(c.StuckAfter))
	}
	if k := c.Kubernetes; k.Moves < 0 || k.PeerPort < 1 || k.PeerPort > 65535 {
		return fmt.Errorf("kubernetes: moves = %d, peer_port = %d: moves is not negative, and a port is between 1 and 65535", k.Moves, k.PeerPort)
	}
	for name, address := range c.Peers {
		if err := pki.CheckNodeName(name); err != nil {
			return fmt.Errorf("peers: %w", err)
		}
		if err := checkAddress(address); err != nil {
			return fmt.Errorf("peers: %s: %w", name, err)
		}
	}
	return nil
}

// checkAddress accepts the host:port of another machine.
func checkAddress(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if host == "" || port == "" || port == "0" {
		return fmt.Errorf("%q lacks host or port", address)
	}
	return nil
}
