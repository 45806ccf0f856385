package nodecontroller

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// storeSlack is what a store may take above what the pod takes now: a pod
	// grows while it is moved, and CRIU's images need room.
	storeSlack = 256 << 20
	// leastStore is the store of a pod whose memory is not known.
	leastStore = 1 << 30
)

// roomRequest is what room decides by. Sizes are in bytes.
type roomRequest struct {
	node      string
	memory    uint64 // of the pod now; 0 if it is not known
	available uint64 // of this node's memory
	limit     uint64 // for all stores together; 0 means none
	reserved  uint64 // by the other stores
	others    int    // migrations coming in
	most      int    // that may come in
}

// room returns how much memory the store of a pod may take, or an error that
// wraps errdefs.ErrResourceExhausted. The pod's memory is needed twice for a
// while: in the store, and in the pod as it is filled in.
func room(r roomRequest) (uint64, error) {
	if r.others >= r.most {
		return 0, fmt.Errorf("node %s takes in %d migrations already: wait, or raise max_incoming: %w", r.node, r.others, errdefs.ErrResourceExhausted)
	}
	want := uint64(leastStore)
	if r.memory > 0 {
		want = r.memory + r.memory/2 + storeSlack
	}
	if r.limit > 0 {
		if left := r.limit - min(r.limit, r.reserved); left < r.memory+storeSlack {
			return 0, fmt.Errorf("node %s: the pod takes %d MiB, its stores have %d MiB left: raise store_limit, or wait: %w",
				r.node, r.memory>>20, left>>20, errdefs.ErrResourceExhausted)
		} else if left < want {
			want = left
		}
	}
	if need := 2*r.memory + storeSlack; r.available < need {
		return 0, fmt.Errorf("node %s: the pod takes %d MiB and needs twice that while it comes in, %d MiB are available: %w",
			r.node, r.memory>>20, r.available>>20, errdefs.ErrResourceExhausted)
	}
	return want, nil
}

// availableMemory is what the kernel says could be used without swapping, bytes.
func availableMemory() (uint64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("available memory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib uint64
		if strings.HasPrefix(s.Text(), "MemAvailable:") {
			if _, err := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); err != nil {
				return 0, fmt.Errorf("available memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("available memory: /proc/meminfo has no MemAvailable")
}
