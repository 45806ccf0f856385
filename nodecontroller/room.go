package nodecontroller

import (
	"fmt"

	"github.com/containerd/errdefs"
)

const (
	// storeSlack is what a store may take above what the pod takes now: a pod
	// grows while it is moved, and CRIU's images need room.
	storeSlack = 256 << 20
	// leastStore is the store of a pod whose memory is not known.
	leastStore = 1 << 30
)

// together is what store and pod take together at most while the pod's memory is filled
// in: the store gives back what is in place (package lazy).
func together(memory uint64) uint64 { return memory + memory*15/100 }

// roomRequest is what room decides by. Sizes are in bytes.
type roomRequest struct {
	node      string
	memory    uint64 // of the pod now; 0 if it is not known
	available uint64 // of this node's memory
	coming    uint64 // of that, what pods that are on their way will yet take
	group     group  // that this daemon's memory counts against, with its store's
	limit     uint64 // for all stores together; 0 means none
	reserved  uint64 // by the other stores
	others    int    // migrations coming in
	most      int    // that may come in
}

// room returns how much memory the store of a pod may take, or an error that
// wraps errdefs.ErrResourceExhausted and says what is needed, what is there and what helps.
// It is asked before anything of the pod is sent.
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
	need, have := together(r.memory)+storeSlack, r.available-min(r.available, r.coming)
	if have < need {
		return 0, fmt.Errorf("node %s: the pod takes %d MiB and needs %d MiB while it comes in, %d MiB are available and %d MiB of these are for pods on their way: free memory there, wait for these, or move it elsewhere: %w",
			r.node, r.memory>>20, need>>20, r.available>>20, r.coming>>20, errdefs.ErrResourceExhausted)
	}
	need, have = r.memory+storeSlack, r.group.left-min(r.group.left, r.coming)
	if r.group.path != "" && have < need {
		return 0, fmt.Errorf("node %s: the pod's store needs %d MiB, the memory cgroup %s of godwit-node has %d MiB left: raise its limit (MemoryMax= of the unit), or wait: %w",
			r.node, need>>20, r.group.path, have>>20, errdefs.ErrResourceExhausted)
	}
	return want, nil
}

// coming is what the pods that are on their way will yet take of this node's memory. It is
// called with mu held.
func (d *Daemon) coming() uint64 {
	var n uint64
	for _, m := range d.incoming {
		n += m.coming()
	}
	return n
}

// coming is what a pod will yet take. One that runs has what it takes, and its store gives
// back what it takes more.
func (m *incoming) coming() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.Stage == destinationCommitted {
		return 0
	}
	return together(m.pod) - min(together(m.pod), resident(m.storeDir))
}
