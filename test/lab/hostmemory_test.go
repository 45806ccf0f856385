package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemoryIsKeptFromTheHostUntilItIsReleased(t *testing.T) {
	dir := t.TempDir()
	parameter, saved, blocks := filepath.Join(dir, "order"), filepath.Join(dir, "saved"), filepath.Join(dir, "buddyinfo")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is := func(want string) {
		t.Helper()
		b, err := os.ReadFile(parameter)
		if err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("the parameter is %q (%v), want %s", b, err, want)
		}
	}
	touched := 0
	keep := func() func() error {
		t.Helper()
		kept, release, err := keepMemory(parameter, saved, blocks, func() error { touched++; return nil })
		if !kept || err != nil {
			t.Fatalf("kept %v, %v", kept, err)
		}
		return release
	}
	if release := keep(); release() != nil || touched != 0 {
		t.Error("a kernel that reports nothing is told to keep it")
	}
	write(parameter, "9\n")
	write(blocks, "Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3 \n")
	keep() // and dies
	is("11")
	release := keep()
	is("11")
	beside := keep()
	for range 2 {
		if err := release(); err != nil {
			t.Error(err)
		}
		is("9")
		release = beside
	}
	if _, err := os.Stat(saved); !os.IsNotExist(err) {
		t.Errorf("what it was is left behind: %v", err)
	}
	if touched != 3 {
		t.Errorf("free memory was touched %d times", touched)
	}
	write(blocks, "nothing of the kind\n")
	if _, _, err := keepMemory(parameter, saved, blocks, nil); err == nil || !strings.Contains(err.Error(), "no orders") {
		t.Errorf("error %v", err)
	}
}
