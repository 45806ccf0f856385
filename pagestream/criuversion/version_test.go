package criuversion

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"godwit.dev/godwit/test/criunode"
)

func TestVersionIsFoundInWhatCRIUPrints(t *testing.T) {
	for text, want := range map[string]string{
		"Version: 4.2.1\n": "4.2.1",
		"Version: 3.17.1\nGitID: v3.17.1-0-gabcdef\n": "3.17.1",
		"Version: 4.2\n": "4.2",
		"4.1.1":          "4.1.1",
		"v4.0":           "4.0",
		"3.19-2":         "3.19",
	} {
		v, err := Parse(text)
		if err != nil || v.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, v, err, want)
		}
	}
	for _, text := range []string{"", "4", "criu: not found", "4.", "99999.1", "1.2x", strings.Repeat(" ", longest) + "4.2"} {
		if v, err := Parse(text); !errors.Is(err, ErrUnknown) {
			t.Errorf("%.20q: %v, %v", text, v, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"Version: 4.2.1\nGitID: x", "3.17", "", "9999.9999.9999", "4.2.1.3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			return
		}
		if w, err := Parse(v.String()); err != nil || w != v {
			t.Errorf("%q: %v, and then %v, %v", s, v, w, err)
		}
	})
}

func TestSupportedFrom317To42(t *testing.T) {
	for text, want := range map[string]error{
		"2.6": ErrTooOld, "3.16.1": ErrTooOld, "3.17": nil, "3.17.1": nil, "3.18": nil, "3.19": nil, "4.0": nil, "4.1.1": nil, "4.2": nil, "4.2.1": nil,
		"4.3": ErrUntried, "5.0": ErrUntried,
	} {
		v, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Supported(); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
}

func TestImagesAreReadBySameAndLaterReleases(t *testing.T) {
	for _, c := range []struct {
		restores, dumped Version
		ok               bool
	}{
		{Version{4, 2, 1}, Version{4, 2, 1}, true},
		{Version{4, 2, 0}, Version{4, 2, 1}, true},
		{Version{4, 2, 1}, Version{3, 17, 1}, true},
		{Version{4, 1, 1}, Version{4, 2, 0}, false},
		{Version{3, 19, 0}, Version{4, 0, 0}, false},
	} {
		if err := c.restores.Restores(c.dumped); (err == nil) != c.ok || !c.ok && !errors.Is(err, ErrUnreadable) {
			t.Errorf("%v restores %v: %v", c.restores, c.dumped, err)
		}
	}
}

func TestWhatChangedWithWhichRelease(t *testing.T) {
	for _, c := range []struct {
		version Version
		message int
		asks    bool
		scripts bool
		clocks  bool
	}{
		{Version{3, 17, 1}, 24, true, false, false},
		{Version{3, 18, 0}, 24, true, false, false},
		{Version{3, 19, 0}, 24, true, true, false},
		{Version{4, 0, 0}, 24, true, true, false},
		{Version{4, 1, 1}, 24, true, true, true},
		{Version{4, 2, 0}, 32, false, true, true},
		{Version{4, 2, 1}, 32, false, true, true},
	} {
		if n := c.version.PageServerMessage(); n != c.message {
			t.Errorf("%v: messages of %d bytes, want %d", c.version, n, c.message)
		}
		if asks := c.version.AsksEverySocket(); asks != c.asks {
			t.Errorf("%v: asks every socket: %v, want %v", c.version, asks, c.asks)
		}
		if scripts := c.version.CallsScripts(); scripts != c.scripts {
			t.Errorf("%v: calls scripts: %v, want %v", c.version, scripts, c.scripts)
		}
		if clocks := c.version.KnowsClockPages(); clocks != c.clocks {
			t.Errorf("%v: knows the clock's pages: %v, want %v", c.version, clocks, c.clocks)
		}
	}
}

func TestInstalledCRIUIsAskedOrMissed(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		if _, err := Installed(context.Background(), nil); !errors.Is(err, ErrNone) {
			t.Errorf("without CRIU: %v", err)
		}
	})
	t.Run("a node's", func(t *testing.T) {
		n, err := criunode.New(t.TempDir())
		if errors.Is(err, criunode.ErrUnavailable) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		v, err := Installed(t.Context(), func(ctx context.Context, cmd *exec.Cmd) error {
			there := n.Command(ctx, cmd.Args...)
			there.Stdout, there.Stderr = cmd.Stdout, cmd.Stderr
			return there.Run()
		})
		if err != nil || v.Before(Oldest) {
			t.Errorf("%v, %v", v, err)
		}
	})
}
