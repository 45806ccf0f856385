package filetree

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Overlay is how an overlay is mounted, as far as a Source has to know.
type Overlay struct {
	Upper     string // absolute path of its upper directory, for NewSource
	UserXattr bool   // its private attributes are user.overlay.*, for Options.UserXattr
}

// FindUpper returns the upper directory of the overlay mounted at rootfsMount; see FindOverlay.
func FindUpper(rootfsMount string) (upper string, err error) {
	o, err := FindOverlay(rootfsMount)
	return o.Upper, err
}

// FindOverlay reads from /proc/self/mountinfo how the overlay at rootfsMount is mounted in the caller's mount namespace. It
// returns ErrNotOverlay if something else or nothing is mounted there or the overlay is read-only, and
// ErrUnsupportedOverlay if its upper directory was given as a relative path, which nobody can follow afterwards.
func FindOverlay(rootfsMount string) (Overlay, error) {
	dir, err := filepath.EvalSymlinks(rootfsMount)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return Overlay{}, fmt.Errorf("root file system mount: %w", err)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Overlay{}, fmt.Errorf("mount table: %w", err)
	}
	defer f.Close()
	mounts, err := mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return Overlay{}, fmt.Errorf("mount table: %w", err)
	}
	if len(mounts) == 0 {
		return Overlay{}, fmt.Errorf("nothing is mounted at %s: %w", dir, ErrNotOverlay)
	}
	top := mounts[len(mounts)-1] // mounts over one another: the last is the one that is seen
	if top.FSType != "overlay" {
		return Overlay{}, fmt.Errorf("%s is mounted at %s: %w", top.FSType, dir, ErrNotOverlay)
	}
	return parseOverlay(dir, top.VFSOptions)
}

// parseOverlay reads an overlay's options as the kernel prints them (fs/overlayfs/params.c, ovl_show_options). Options such
// as metacopy are not judged here: whether they were put to use shows in the files.
func parseOverlay(mount, options string) (Overlay, error) {
	var o Overlay
	for _, option := range strings.Split(options, ",") {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "upperdir":
			o.Upper = unescapeOctal(value)
		case "userxattr":
			o.UserXattr = true
		}
	}
	if o.Upper == "" {
		return Overlay{}, fmt.Errorf("overlay at %s is read-only, it has no upper directory: %w", mount, ErrNotOverlay)
	}
	if !filepath.IsAbs(o.Upper) {
		return Overlay{}, fmt.Errorf("overlay at %s was mounted with the relative upper directory %q: %w", mount, o.Upper, ErrUnsupportedOverlay)
	}
	return o, nil
}

// unescapeOctal undoes the \ooo of the kernel's seq_escape.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// overlayMarks is what overlayfs has noted in the private attributes of a file in its upper directory.
type overlayMarks struct {
	opaque   bool   // directory: hides what lower layers have in it
	whiteout bool   // empty file: a whiteout in the form of Linux 6.7
	foreign  string // attribute that says that part of the file is elsewhere
}

// The prefixes of overlayfs's private attributes, the second for a mount with the option userxattr.
const (
	trustedOverlay = "trusted.overlay."
	userOverlay    = "user.overlay."
)

// note takes in one private attribute (Documentation/filesystems/overlayfs.rst).
func (m *overlayMarks) note(prefix, name string, value []byte) {
	mark, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return
	}
	switch mark {
	case "opaque":
		m.opaque = string(value) == "y" // "x" only says that there are whiteouts in attribute form inside
	case "whiteout":
		m.whiteout = true
	case "metacopy", "redirect", "nlink":
		m.foreign = name
	}
}

func (m *overlayMarks) check(path string) error {
	if m.foreign == "" {
		return nil
	}
	return fmt.Errorf("%q has the attribute %s: %w", path, m.foreign, ErrUnsupportedOverlay)
}

// isWhiteout says that an inode in an upper directory is overlayfs's mark that the name is deleted.
func isWhiteout(st *stat) bool {
	return st.typ() == unix.S_IFCHR && st.rdev == 0
}
