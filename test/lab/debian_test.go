package lab

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMirrorIsTheMachinesMainArchive(t *testing.T) {
	for lines, want := range map[string]string{
		"http://m/debian-security/ main m\nhttp://m/debian/ main m\n": "http://m/debian",
		"https://deb.nodejs.example/ main x\n":                        "",
		"http://m/debian/ contrib m\nhttp://n/sub/debian main m":      "http://n/sub/debian",
		"": "",
	} {
		if got := chooseMirror(lines); got != want {
			t.Errorf("of %q: %q, want %q", lines, got, want)
		}
	}
}

func TestCachedRootIsNamedByItsPackages(t *testing.T) {
	if rootKey([]string{"b", "a", "a"}) != rootKey([]string{"a", "b"}) {
		t.Error("the order of packages makes another root")
	}
	if rootKey([]string{"a"}) == rootKey([]string{"b"}) || rootKey(nil) == rootKey([]string{"a"}) {
		t.Error("different packages make the same root")
	}
	for _, p := range []string{"redis-server", "libc6:amd64", "g++", "redis=5:8.0-1"} {
		if !packageName.MatchString(p) {
			t.Errorf("%q is refused", p)
		}
	}
	for _, p := range []string{"", "-o", "a;b", "../x", "A b", "--reinstall"} {
		if packageName.MatchString(p) {
			t.Errorf("%q is taken", p)
		}
	}
}

func TestDirectoryIsWholeOrNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	if err := os.MkdirAll(filepath.Join(dir+".tmp", "left"), 0o755); err != nil { // by one that was killed
		t.Fatal(err)
	}
	broken := errors.New("broken")
	if err := atomicDir(dir, func(tmp string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if isDir(dir) || isDir(dir+".tmp") {
		t.Error("something is left of a failure")
	}
	if err := atomicDir(dir, func(tmp string) error { return os.WriteFile(filepath.Join(tmp, "file"), nil, 0o600) }); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("entries %v, %v", entries, err)
	}
}
