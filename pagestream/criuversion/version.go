// Package criuversion knows which CRIU a node has and what follows from its
// version: whether Godwit can drive it, the layout of its page-server messages,
// and which other CRIU reads its images. Driving CRIU it leaves to others.
package criuversion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// Version is a CRIU release. Patch is 0 where the release has two numbers.
type Version struct{ Major, Minor, Patch int }

// Oldest and Newest are the first and the last minor release that Godwit is made
// for. 3.17 is the first that knows restartable sequences, which every program of
// glibc 2.35 and later has (criu/cr-dump.c, dump_thread_rseq).
var (
	Oldest = Version{Major: 3, Minor: 17}
	Newest = Version{Major: 4, Minor: 2}
)

var (
	// ErrUnknown: what should be a version is none.
	ErrUnknown = errors.New("unknown CRIU version")
	// ErrNone: there is no CRIU that runs.
	ErrNone = errors.New("no working CRIU: install criu " + Oldest.String() + " to " + Newest.String() + " where containerd's PATH has it")
	// ErrTooOld: Godwit cannot drive it.
	ErrTooOld = errors.New("CRIU is too old: install " + Oldest.String() + " or later, best " + Newest.String())
	// ErrUntried: it is newer than this Godwit.
	ErrUntried = errors.New("CRIU is newer than what Godwit was made for: install " + Newest.String() + ", or try it first with a pod that may be lost")
	// ErrUnreadable: a CRIU may not be able to read the images of another.
	ErrUnreadable = errors.New("an older CRIU may not read the images of a newer one")
)

// longest is the longest text that is looked at for a version, bytes: it may
// come from a peer.
const longest = 1 << 10

var number = regexp.MustCompile(`(?:^|\s)v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-+~\s]|$)`)

// Parse finds the first version in a text: a bare one, or what `criu --version`
// prints. The error wraps ErrUnknown.
func Parse(text string) (Version, error) {
	if len(text) > longest {
		return Version{}, fmt.Errorf("%w: %d bytes of text", ErrUnknown, len(text))
	}
	m := number.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("%w: %q", ErrUnknown, text)
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // four digits at most, or none at all
	}
	return Version{n[0], n[1], n[2]}, nil
}

// Run runs a command to its end. A process that collects its children in one
// place needs its own; nil is exec's.
type Run func(context.Context, *exec.Cmd) error

// Installed asks the CRIU in PATH. The error wraps ErrNone or ErrUnknown.
func Installed(ctx context.Context, run Run) (Version, error) {
	if run == nil {
		run = func(_ context.Context, cmd *exec.Cmd) error { return cmd.Run() }
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "criu", "--version")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := run(ctx, cmd); err != nil {
		return Version{}, fmt.Errorf("%w (%w) %s", ErrNone, err, strings.TrimSpace(out.String()))
	}
	return Parse(out.String())
}

// String is the version as CRIU writes it.
func (v Version) String() string {
	if v.Patch == 0 {
		return fmt.Sprintf("%d.%d", v.Major, v.Minor)
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// minor is the version without its patch number.
func (v Version) minor() Version { return Version{Major: v.Major, Minor: v.Minor} }

// Before says whether v was released before w.
func (v Version) Before(w Version) bool {
	switch {
	case v.Major != w.Major:
		return v.Major < w.Major
	case v.Minor != w.Minor:
		return v.Minor < w.Minor
	}
	return v.Patch < w.Patch
}

// Supported returns nil if Godwit is made for the version, and an error that
// wraps ErrTooOld or ErrUntried if not.
func (v Version) Supported() error {
	switch {
	case v.Before(Oldest):
		return fmt.Errorf("CRIU %v: %w", v, ErrTooOld)
	case Newest.Before(v.minor()):
		return fmt.Errorf("CRIU %v: %w", v, ErrUntried)
	}
	return nil
}

// PageServerMessage is the length of a message of the version's page-server
// protocol, bytes. The count of pages grew from 32 to 64 bits in 4.2
// (criu/page-xfer.c, struct page_server_iov).
func (v Version) PageServerMessage() int {
	if v.Before(Version{Major: 4, Minor: 2}) {
		return 24
	}
	return 32
}

// CallsScripts says whether the version calls action scripts when its client is
// notified by RPC as well, as runc is, and can be told not to lock the network: both
// came with 3.19 (criu/action-scripts.c, run_scripts; criu/config.c, network-lock).
func (v Version) CallsScripts() bool { return !v.Before(Version{Major: 3, Minor: 19}) }

// AsksEverySocket says whether the version asks every socket for options that, from
// Linux 6.16 on, only those have that carry credentials: it cannot dump others there
// (criu/sockets.c, dump_socket_opts; 4.2 asks by family).
func (v Version) AsksEverySocket() bool { return v.Before(Version{Major: 4, Minor: 2}) }

// KnowsClockPages says whether the version knows that the kernel's clock data for
// virtual machines is an area of its own, [vvar_vclock], as from Linux 6.13 on: one
// that does not takes the vDSO beside it for a mistake (criu/vdso.c,
// validate_vdso_addr; 4.1 knows).
func (v Version) KnowsClockPages() bool { return !v.Before(Version{Major: 4, Minor: 1}) }

// Restores returns nil if v restores what dumped wrote, and an error that wraps
// ErrUnreadable if it may not. CRIU restores the images of its former releases;
// a newer one may write what an older one does not know, of which the older one
// is not told: the images' own version has been the same since before 2.0
// (criu/include/image.h, CRTOOLS_IMAGES_V1_1; criu/image.c,
// check_img_inventory). Within a minor release images do not change.
func (v Version) Restores(dumped Version) error {
	if v.minor().Before(dumped.minor()) {
		return fmt.Errorf("CRIU %v and images of CRIU %v: %w", v, dumped, ErrUnreadable)
	}
	return nil
}
