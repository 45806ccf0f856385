package inhost

import (
	"errors"
	"slices"
	"testing"
)

func TestImagePathsAreFoundFromTheHost(t *testing.T) {
	got := expand([]string{"--config=image:/etc/x", "image:/bin", "x=image:/y", "--to", "--a=b"}, "/proc/self/fd/7")
	want := []string{"--config=/proc/self/fd/7/etc/x", "/proc/self/fd/7/bin", "x=image:/y", "--to", "--a=b"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestWithoutAHostThereIsAnErrorThatSaysSo(t *testing.T) {
	if err := distinct("/proc/self/ns/mnt", "/proc/self/ns/mnt"); !errors.Is(err, ErrNoHost) {
		t.Errorf("got %v", err)
	}
}

func TestTheHostsSearchPathReplacesTheImages(t *testing.T) {
	got := environment([]string{"PATH=/image/bin", "A=b"}, "/host/bin", held{7, 9})
	if want := []string{"A=b", "PATH=/host/bin", "GODWIT_IMAGE=7,9"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestAProcessThatComesFromNoContainerHasNoImage(t *testing.T) {
	t.Setenv(envImage, "")
	if root := ImageRoot(); root != "" {
		t.Errorf("%q", root)
	}
	t.Setenv(envImage, "7,9")
	if root := ImageRoot(); root != "/proc/self/fd/7" {
		t.Errorf("%q", root)
	}
}
