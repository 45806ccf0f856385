package nodecontroller

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestRoomIsLimitedByEveryLimit(t *testing.T) {
	const mib, gib = uint64(1 << 20), uint64(1 << 30)
	for _, c := range []struct {
		name string
		r    roomRequest
		want uint64 // 0: an error
		says string
	}{
		{"grows by half", roomRequest{memory: gib, available: 16 * gib, most: 4}, gib + gib/2 + 256*mib, ""},
		{"memory is not known", roomRequest{available: 16 * gib, most: 4}, gib, ""},
		{"a limit cuts the growth", roomRequest{memory: gib, available: 16 * gib, limit: 3 * gib / 2, most: 4}, 3 * gib / 2, ""},
		{"others have reserved", roomRequest{memory: gib, available: 16 * gib, limit: 2 * gib, reserved: gib, others: 1, most: 4}, 0, "store_limit"},
		{"others have reserved all", roomRequest{memory: mib, available: 16 * gib, limit: gib, reserved: 2 * gib, others: 1, most: 4}, 0, "store_limit"},
		{"a node that is full", roomRequest{memory: 4 * gib, available: 4 * gib, most: 4}, 0, "needs 4966 MiB while it comes in, 4096 MiB are available"},
		{"the pod fits about once", roomRequest{memory: 4 * gib, available: 5 * gib, most: 4}, 6*gib + 256*mib, ""},
		{"others are on their way", roomRequest{memory: 4 * gib, available: 8 * gib, coming: 4 * gib, others: 1, most: 4}, 0, "4096 MiB of these are for pods on their way"},
		{"the daemon's cgroup", roomRequest{memory: gib, available: 16 * gib, group: group{"/godwit", gib}, most: 4}, 0, "/godwit of godwit-node has 1024 MiB left: raise its limit"},
		{"a cgroup with room", roomRequest{memory: gib, available: 16 * gib, group: group{"/godwit", 2 * gib}, most: 4}, gib + gib/2 + 256*mib, ""},
		{"too many at once", roomRequest{memory: mib, available: 8 * gib, others: 4, most: 4}, 0, "max_incoming"},
	} {
		got, err := room(c.r)
		if c.want != 0 && (err != nil || got != c.want) {
			t.Errorf("%s: room = %d, %v; want %d", c.name, got, err, c.want)
		}
		if c.want == 0 && (!errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: error %v, want ErrResourceExhausted about %q", c.name, err, c.says)
		}
	}
}

func TestAvailableMemoryIsWhatTheKernelSays(t *testing.T) {
	n, err := availableMemory()
	if err != nil || n < 1<<20 {
		t.Errorf("available memory %d, %v", n, err)
	}
}
