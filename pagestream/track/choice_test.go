package track

import (
	"context"
	"errors"
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream/criuversion"
	"godwit.dev/godwit/pagestream/pagemap"
)

// What can be missing, by one letter: s PAGEMAP_SCAN, w write-protection, d soft-dirty, c CRIU.
func without(missing string) Features {
	var f Features
	for _, m := range missing {
		switch m {
		case 's':
			f.PagemapScan = pagemap.ErrNoPagemapScan
		case 'w':
			f.WPAsync = pagemap.ErrNoWPAsync
		case 'd':
			f.SoftDirty = pagemap.ErrNoSoftDirty
		case 'c':
			f.CRIU = criuversion.ErrTooOld
		}
	}
	return f
}

func TestEngineIsChosenByWhatIsAskedForAndWhatIsThere(t *testing.T) {
	for _, c := range []struct {
		asked   Engine
		missing string
		want    Engine
		says    string
		err     error
	}{
		{Auto, "", WriteProtect, "never stops", nil},
		{Auto, "dc", WriteProtect, "never stops", nil},
		{Auto, "s", SoftDirty, "lacks PAGEMAP_SCAN and has soft-dirty", nil},
		{Auto, "w", SoftDirty, "lacks asynchronous write-protection by userfaultfd and has soft-dirty", nil},
		{Auto, "sw", SoftDirty, "lacks PAGEMAP_SCAN and asynchronous", nil},
		{Auto, "sd", None, "neither engine works here: WriteProtect lacks PAGEMAP_SCAN, SoftDirty lacks soft-dirty bits", nil},
		{Auto, "wc", None, "SoftDirty lacks a CRIU that can be used", nil},
		{Auto, "swdc", None, "SoftDirty lacks soft-dirty bits in the kernel and a CRIU", nil},
		{WriteProtect, "dc", WriteProtect, "was asked for", nil},
		{WriteProtect, "w", None, "ask for auto, which is SoftDirty here", pagemap.ErrNoWPAsync},
		{WriteProtect, "swd", None, "ask for auto, which is None here", pagemap.ErrNoPagemapScan},
		{SoftDirty, "sw", SoftDirty, "was asked for", nil},
		{SoftDirty, "d", None, "SoftDirty lacks soft-dirty bits in the kernel; ask for auto, which is WriteProtect here", pagemap.ErrNoSoftDirty},
		{SoftDirty, "c", None, "SoftDirty lacks a CRIU", criuversion.ErrTooOld},
		{None, "", None, "asked for", nil},
		{None, "swdc", None, "asked for", nil},
		{Engine(9), "", None, "Engine(9)", ErrEngine},
	} {
		got, why, err := Choose(c.asked, without(c.missing))
		said := why
		if err != nil {
			said = err.Error()
			if !errors.Is(err, ErrEngine) {
				t.Errorf("%v without %q: %v does not wrap ErrEngine", c.asked, c.missing, err)
			}
		}
		if got != c.want || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || !strings.Contains(said, c.says) {
			t.Errorf("%v without %q: %v, %q, %v; want %v and %q", c.asked, c.missing, got, why, err, c.want, c.says)
		}
	}
}

func TestEngineIsReadInEverySpelling(t *testing.T) {
	for name, want := range map[string]Engine{
		"": Auto, "auto": Auto, "Auto": Auto, "write-protect": WriteProtect, "WriteProtect": WriteProtect, "write_protect": WriteProtect,
		"soft-dirty": SoftDirty, "SoftDirty": SoftDirty, "softdirty": SoftDirty, "none": None, "None": None,
	} {
		if got, err := ParseEngine(name); err != nil || got != want {
			t.Errorf("%q: %v, %v, want %v", name, got, err, want)
		}
	}
	for _, e := range []Engine{Auto, WriteProtect, SoftDirty, None} {
		if got, err := ParseEngine(e.String()); err != nil || got != e {
			t.Errorf("%v: %v, %v", e, got, err)
		}
	}
	for _, name := range []string{"fast", "write protect", "1", strings.Repeat("x", 1<<20)} {
		if e, err := ParseEngine(name); !errors.Is(err, ErrEngine) || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v, %.200v", name, e, err)
		}
	}
}

func TestProbedFeaturesNameWhatIsMissing(t *testing.T) {
	f := Probe(context.Background(), nil)
	for _, c := range []struct{ found, kind error }{
		{f.PagemapScan, pagemap.ErrNoPagemapScan}, {f.WPAsync, pagemap.ErrNoWPAsync}, {f.SoftDirty, pagemap.ErrNoSoftDirty},
	} {
		if c.found != nil && !errors.Is(c.found, c.kind) {
			t.Errorf("%v does not wrap %v", c.found, c.kind)
		}
	}
	if e, why, err := Choose(Auto, f); err != nil || e == Auto || why == "" {
		t.Errorf("%v, %q, %v", e, why, err)
	}
}
