package inhost

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestImagePathsAreFoundFromTheHost(t *testing.T) {
	got := expand([]string{"--config=image:/etc/x", "image:/bin", "x=image:/y", "--to", "--a=b"}, "/proc/7/root")
	want := []string{"--config=/proc/7/root/etc/x", "/proc/7/root/bin", "x=image:/y", "--to", "--a=b"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestWithoutAHostThereIsAnErrorThatSaysSo(t *testing.T) {
	if err := distinct("/proc/self/ns/mnt", "/proc/self/ns/mnt"); !errors.Is(err, ErrNoHost) {
		t.Errorf("got %v", err)
	}
}

func TestExitStatusIsAShells(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 143} {
		if got, err := status(exec.Command("sh", "-c", script).Run()); got != want || err != nil {
			t.Errorf("%s: %d, %v", script, got, err)
		}
	}
	if _, err := status(os.ErrNotExist); err == nil {
		t.Error("a program that could not run has a status")
	}
}
