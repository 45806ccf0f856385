package criu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeCRIU answers for a cache of which it knows the bytes that stand for its two features.
type fakeCRIU struct {
	cache       string
	guard, scan int // where they stand
	asked       int
}

// run is `criu check`, and shows it a copy if one is named.
func (c *fakeCRIU) run(_ context.Context, cmd *exec.Cmd) error {
	c.asked++
	path := c.cache
	if cmd.Args[0] == "show" {
		path = cmd.Args[1]
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := c.guard
	if feature := cmd.Args[len(cmd.Args)-1]; feature == scanFeature {
		at = c.scan
	}
	if content[at] != yes {
		return errors.New("status 1")
	}
	_, err = cmd.Stdout.Write([]byte(cmd.Args[len(cmd.Args)-1] + " is supported\n"))
	return err
}

// fakeGuardless has a cache whose last bytes are yes and no in turn, behind one of magic.
func fakeGuardless(t *testing.T, guard, scan int) (*Guardless, *fakeCRIU, []byte) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "criu"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	content := bytes.Repeat([]byte{yes, yes, no, 0x42}, 60)
	cache := filepath.Join(dir, "criu.kdat")
	if err := os.WriteFile(cache, content, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &fakeCRIU{cache: cache, guard: guard, scan: scan}
	return &Guardless{Dir: filepath.Join(dir, "copies"), Cache: cache, Showing: []string{"show"}, Run: c.run}, c, content
}

func TestOneByteOfTheCopyIsAnother(t *testing.T) {
	for name, c := range map[string]struct {
		guard, scan int
		want        error
	}{
		"the last":                           {237, 236, nil},
		"one before others":                  {224, 237, nil},
		"without which the others are gone":  {224, 224, errNoByte},
		"too far from the end":               {100, 237, errNoByte},
		"in the magic":                       {1, 237, errNoByte},
		"none, as the kernel has no feature": {238, 237, errKnowsNone},
	} {
		t.Run(name, func(t *testing.T) {
			g, _, content := fakeGuardless(t, c.guard, c.scan)
			if _, ok := g.Ready(); ok {
				t.Error("there is a copy before it is made")
			}
			if err := g.Make(t.Context()); !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			path, ok := g.Ready()
			if ok != (c.want == nil) {
				t.Fatalf("ready is %v", ok)
			}
			left, _ := os.ReadDir(g.Dir)
			if !ok && len(left) > 0 {
				t.Errorf("it left %v", left)
			}
			if !ok {
				return
			}
			want := slices.Clone(content)
			want[c.guard] = no
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the copy is %x, %v, want %x", got, err, want)
			}
			if len(left) != 1 {
				t.Errorf("there are %v", left)
			}
		})
	}
}

func TestACopyIsTakenOnlyForWhatItWasMadeOf(t *testing.T) {
	for name, change := range map[string]func(g *Guardless, path string) error{
		"another cache": func(g *Guardless, _ string) error {
			return os.WriteFile(g.Cache, bytes.Repeat([]byte{yes}, 240), 0o600)
		},
		"no cache": func(g *Guardless, _ string) error { return os.Remove(g.Cache) },
		"another CRIU": func(g *Guardless, _ string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(g.Cache), "criu"), []byte("new"), 0o755)
		},
		"a copy that lacks more": func(_ *Guardless, path string) error {
			b, err := os.ReadFile(path)
			b[20] = no
			return errors.Join(err, os.WriteFile(path, b, 0o600))
		},
		"a copy that is cut off": func(_ *Guardless, path string) error { return os.Truncate(path, 100) },
		"an empty copy":          func(_ *Guardless, path string) error { return os.Truncate(path, 0) },
	} {
		g, _, _ := fakeGuardless(t, 237, 236)
		if err := g.Make(t.Context()); err != nil {
			t.Fatal(err)
		}
		path, ok := g.Ready()
		if !ok {
			t.Fatal("the copy that was made is not there")
		}
		if err := change(g, path); err != nil {
			t.Fatal(err)
		}
		if _, ok := g.Ready(); ok {
			t.Errorf("%s: the copy is taken", name)
		}
	}
}

func TestCopiesOfWhatIsNoMoreGo(t *testing.T) {
	g, c, content := fakeGuardless(t, 237, 236)
	if err := g.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	old, _ := g.Ready()
	asked := c.asked
	if err := g.Make(t.Context()); err != nil || c.asked != asked {
		t.Errorf("CRIU was asked %d times more for a copy that is there, %v", c.asked-asked, err)
	}
	young, abandoned := filepath.Join(g.Dir, trial+"1"), filepath.Join(g.Dir, trial+"2")
	for _, path := range []string{young, abandoned} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(abandoned, long, long); err != nil {
		t.Fatal(err)
	}
	content[30]++
	if err := os.WriteFile(g.Cache, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, _ := g.Ready()
	for path, want := range map[string]bool{old: false, abandoned: false, young: true, made: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", strings.TrimPrefix(path, g.Dir), err == nil)
		}
	}
}
