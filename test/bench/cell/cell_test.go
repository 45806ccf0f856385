package cell

import (
	"testing"

	"godwit.dev/godwit/test/bench/matrix"
)

func TestACounterIsReadAsNftListsIt(t *testing.T) {
	const listed = `table ip godwit_bench {
	chain out {
		type filter hook output priority filter; policy accept;
		ip daddr 10.90.0.11 counter packets 12 bytes 4711
	}
}
`
	if n, err := parseCounter(listed); n != 4711 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, bad := range []string{"", "table ip godwit_bench {\n}\n", "counter packets 1 bytes 99999999999999999999999"} {
		if n, err := parseCounter(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
}

func TestEveryWorkloadOfTheTableCanBeRun(t *testing.T) {
	for _, w := range matrix.Workloads() {
		p, err := programOf(t.Context(), w, 64<<20)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.image == nil || p.port == "" || len(p.args) == 0 || p.client("127.0.0.1:1") == nil {
			t.Errorf("%s: %+v", w.Name, p)
		}
	}
	if _, err := programOf(t.Context(), matrix.Workload{Name: "none"}, 1); err == nil {
		t.Error("a workload that does not exist can be run")
	}
}
