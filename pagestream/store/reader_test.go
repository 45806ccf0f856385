package store

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestNobodyMakesHugePagesOfAMappedStore(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skip("the kernel makes none:", err)
	}
	s := newStore(t, 16<<20)
	must(t, s.Pages(proc(1), 0x1000, content(1, 4)))
	r := seal(t, s)
	defer runtime.KeepAlive(r)
	text, err := os.ReadFile("/proc/self/smaps")
	must(t, err)
	_, area, found := strings.Cut(string(text), dataPath(s.Dir(), proc(1)))
	if !found {
		t.Fatal("the store's pages are not mapped")
	}
	_, flags, _ := strings.Cut(area, "VmFlags:")
	flags, _, _ = strings.Cut(flags, "\n")
	if !slices.Contains(strings.Fields(flags), "nh") {
		t.Errorf("flags of the mapped pages are%s: khugepaged would copy them (no nh)", flags)
	}
}
