package nodecontroller

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// ErrUnknownPeer is returned for a node that the configuration does not name.
var ErrUnknownPeer = errors.New("unknown peer")

// OutOfServiceTaint is what an operator puts on the Node object of a machine that is off.
const OutOfServiceTaint = "node.kubernetes.io/out-of-service"

// ErrOutOfService is returned for a node of which an operator has said that its
// machine is off, and nothing of what it ran does.
var ErrOutOfService = errors.New("the node is marked as out of service")

// PeerResolver knows peers that the configuration file does not name. An error
// wraps ErrUnknownPeer if it knows none of that name.
type PeerResolver interface {
	// Address is where a node's daemon listens, host:port.
	Address(node string) (string, error)
}

// peerTable knows the peers' addresses: those of the configuration file as it
// is now, and those of a resolver. The file is read again when it has changed.
type peerTable struct {
	path string
	log  *slog.Logger

	mu       sync.Mutex
	resolver PeerResolver      // nil if there is none, guarded by mu
	stamp    time.Time         // of the file that was read, guarded by mu
	size     int64             // of the file that was read, guarded by mu
	address  map[string]string // by name, guarded by mu
}

func newPeerTable(path string, c *Config, log *slog.Logger) *peerTable {
	return &peerTable{path: path, log: log, address: c.Peers}
}

// refresh reads the file again if it changed. A file that cannot be read leaves
// the peers as they are.
func (t *peerTable) refresh() {
	fi, err := os.Stat(t.path)
	if err != nil || (fi.ModTime().Equal(t.stamp) && fi.Size() == t.size) {
		return
	}
	c, err := LoadConfig(t.path)
	if err != nil {
		t.log.Warn("configuration not read again, peers stay as they are", "error", err)
		return
	}
	t.stamp, t.size, t.address = fi.ModTime(), fi.Size(), c.Peers
}

// SetPeerResolver has the daemon ask for peers that its configuration does not
// name.
func (d *Daemon) SetPeerResolver(r PeerResolver) {
	d.peers.mu.Lock()
	defer d.peers.mu.Unlock()
	d.peers.resolver = r
}

// lookup returns a peer's address, or an error that wraps ErrUnknownPeer.
func (t *peerTable) lookup(name string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	address, ok := t.address[name]
	if !ok && t.resolver != nil {
		return t.resolver.Address(name)
	}
	if !ok {
		known := make([]string, 0, len(t.address))
		for n := range t.address {
			known = append(known, n)
		}
		sort.Strings(known)
		return "", fmt.Errorf("%q is in [peers] of %s not among %s: %w", name, t.path, strings.Join(known, ", "), ErrUnknownPeer)
	}
	return address, nil
}

// standing is the error by which the cluster says that it has no such node, or that it
// is off, whatever the file has of its address; without a cluster, the file's word.
func (t *peerTable) standing(name string) error {
	t.mu.Lock()
	resolver := t.resolver
	t.mu.Unlock()
	var err error
	if resolver != nil {
		_, err = resolver.Address(name)
	} else {
		_, err = t.lookup(name)
	}
	return err
}

// list returns all peers by name.
func (t *peerTable) list() []*nodev1.Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh()
	peers := make([]*nodev1.Peer, 0, len(t.address))
	for name, address := range t.address {
		peers = append(peers, &nodev1.Peer{Name: name, Address: address})
	}
	sort.Slice(peers, func(i, j int) bool { return peers[i].Name < peers[j].Name })
	return peers
}
