package claim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADirectoryIsOneBenchsAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nodes")
	release, err := Take(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Take(dir)
	if !errors.Is(err, ErrHeld) {
		t.Fatalf("taken twice: %v", err)
	}
	for _, want := range []string{dir, fmt.Sprintf("process %d since", os.Getpid()), filepath.Base(os.Args[0]), Env} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	other, err := Take(dir + "-other")
	if err != nil {
		t.Fatalf("another directory: %v", err)
	}
	if err := errors.Join(other(), release()); err != nil {
		t.Fatal(err)
	}
	release, err = Take(dir)
	if err != nil {
		t.Fatalf("after it was released: %v", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

// The nodes' directory is removed when they are taken down, with the bench still in its steps.
func TestADirectoryIsHeldAlsoWhileItIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "nodes")
	release, err := Take(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(dir + "/"); !errors.Is(err, ErrHeld) {
		t.Errorf("%v", err)
	}
}
