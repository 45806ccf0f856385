package track

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"godwit.dev/godwit/pagestream/criuversion"
	"godwit.dev/godwit/pagestream/pagemap"
)

// Engine is a way to find out which pages were written while they were copied.
type Engine uint8

const (
	// Auto is no engine of its own: it asks for the best that there is. Choose
	// never returns it.
	Auto Engine = iota
	// WriteProtect is this package's Tracker.
	WriteProtect
	// SoftDirty is CRIU's pre-dump by the kernel's soft-dirty bits. It stops the
	// pod for a moment in each round.
	SoftDirty
	// None finds nothing: the pod is frozen first and copied then.
	None
)

// ErrEngine is wrapped by the error for a name that is no engine's, and for an
// engine that cannot work here.
var ErrEngine = errors.New("no such tracker")

var engineNames = [...]string{Auto: "Auto", WriteProtect: "WriteProtect", SoftDirty: "SoftDirty", None: "None"}

// String is the engine's name as the API has it.
func (e Engine) String() string {
	if int(e) < len(engineNames) {
		return engineNames[e]
	}
	return fmt.Sprintf("Engine(%d)", e)
}

// ParseEngine reads an engine's name, as the API or as a command line spells it:
// WriteProtect, write-protect. Nothing means Auto.
func ParseEngine(name string) (Engine, error) {
	if name == "" {
		return Auto, nil
	}
	plain := strings.NewReplacer("-", "", "_", "").Replace(name)
	for e, known := range engineNames {
		if strings.EqualFold(plain, known) {
			return Engine(e), nil
		}
	}
	return Auto, fmt.Errorf("%w: %.40q is none of auto, write-protect, soft-dirty, none", ErrEngine, name)
}

// Features says of all that an engine may need why it is missing: nil is there.
type Features struct {
	// PagemapScan and WPAsync are what WriteProtect needs of the kernel.
	PagemapScan error
	WPAsync     error
	// SoftDirty is what SoftDirty needs of the kernel, CRIU what it needs besides.
	SoftDirty error
	CRIU      error
}

// Probe asks the kernel, once in the life of this process, and the installed
// CRIU, each time, by run (see criuversion.Installed).
func Probe(ctx context.Context, run criuversion.Run) Features {
	return Features{
		PagemapScan: pagemap.ProbeScan(),
		WPAsync:     pagemap.ProbeWPAsync(),
		SoftDirty:   pagemap.ProbeSoftDirty(),
		CRIU:        probeCRIU(ctx, run),
	}
}

// probeCRIU returns nil if the installed CRIU can make SoftDirty's rounds. One
// that is newer than Godwit may.
func probeCRIU(ctx context.Context, run criuversion.Run) error {
	v, err := criuversion.Installed(ctx, run)
	if err != nil {
		return err
	}
	if err := v.Supported(); errors.Is(err, criuversion.ErrTooOld) {
		return err
	}
	return nil
}

// lack is one thing that an engine needs and does not have.
type lack struct {
	what string
	why  error
}

// lacks are what keeps an engine from working.
func (f Features) lacks(e Engine) []lack {
	var needs []lack
	switch e {
	case WriteProtect:
		needs = []lack{{"PAGEMAP_SCAN", f.PagemapScan}, {"asynchronous write-protection by userfaultfd", f.WPAsync}}
	case SoftDirty:
		needs = []lack{{"soft-dirty bits in the kernel", f.SoftDirty}, {"a CRIU that can be used", f.CRIU}}
	}
	var found []lack
	for _, n := range needs {
		if n.why != nil {
			found = append(found, n)
		}
	}
	return found
}

// missing joins the names of what is lacking.
func missing(lacks []lack) string {
	names := make([]string, len(lacks))
	for i, l := range lacks {
		names[i] = l.what
	}
	return strings.Join(names, " and ")
}

// Choose returns the engine to use where asked is asked for and f is there, and
// in one sentence why. Auto takes WriteProtect, which never stops the pod, before
// SoftDirty, and None where neither works. The error, for an engine that was
// asked for and cannot work, wraps ErrEngine and what is missing.
func Choose(asked Engine, f Features) (Engine, string, error) {
	switch asked {
	case Auto:
		e, why := choose(f)
		return e, why, nil
	case None:
		return None, "stop-and-copy was asked for", nil
	case WriteProtect, SoftDirty:
	default:
		return None, "", fmt.Errorf("%w: %v", ErrEngine, asked)
	}
	lacks := f.lacks(asked)
	if len(lacks) == 0 {
		return asked, fmt.Sprintf("%v was asked for", asked), nil
	}
	reasons := make([]error, len(lacks))
	for i, l := range lacks {
		reasons[i] = l.why
	}
	instead, _ := choose(f)
	return None, "", fmt.Errorf("%w on this node: %v lacks %s; ask for auto, which is %v here, or see to it: %w",
		ErrEngine, asked, missing(lacks), instead, errors.Join(reasons...))
}

// choose is the choice of Auto.
func choose(f Features) (Engine, string) {
	wp, sd := f.lacks(WriteProtect), f.lacks(SoftDirty)
	switch {
	case len(wp) == 0:
		return WriteProtect, "the kernel has PAGEMAP_SCAN and asynchronous write-protection by userfaultfd: the pod never stops"
	case len(sd) == 0:
		return SoftDirty, fmt.Sprintf("the kernel lacks %s and has soft-dirty bits, which CRIU can use", missing(wp))
	}
	return None, fmt.Sprintf("stop-and-copy, for neither engine works here: WriteProtect lacks %s, SoftDirty lacks %s", missing(wp), missing(sd))
}
