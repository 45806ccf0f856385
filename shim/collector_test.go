package shim

import (
	"runtime/debug"
	"testing"
)

func TestGarbageIsCollectedAgainWhenTheLastHolderLetsGo(t *testing.T) {
	percent := debug.SetGCPercent(100)
	limit := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
	now := func() (int, int64) {
		p := debug.SetGCPercent(-1)
		debug.SetGCPercent(p)
		return p, debug.SetMemoryLimit(-1)
	}
	first, second := holdCollector(), holdCollector()
	first()
	first() // once more is nothing
	if p, l := now(); p != -1 || l >= limit || l < memoryUsed() {
		t.Errorf("held by one, the percentage is %d and the limit %d", p, l)
	}
	second()
	if p, l := now(); p != 100 || l != limit {
		t.Errorf("held by none, the percentage is %d and the limit %d", p, l)
	}
}
