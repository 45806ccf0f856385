package criu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CRIU 4.2 looks for guard pages (MADV_GUARD_INSTALL) while the pod is frozen: a walk over all page tables of each process, 1.5 ms for
// each GiB (criu/mem.c, collect_madv_guards). We know them from a walk of our own. CRIU does not look if the cache in which it keeps what
// it has found out about the kernel says that the kernel does not tell guard pages. So a dump is shown a copy of that cache in which one
// byte is another. Which one, CRIU tells itself: the one without which it says that it lacks the feature.
//
// Such a CRIU takes a guard page in an area that it dumps for one that it has to read, and fails (criu/pagemap-cache.c, pmc_fill): it may be
// shown the copy only if all guard pages are in areas that are hidden from it. See View.HideGuards.

const (
	// featureCache is that cache (criu/kerndat.c, KERNDAT_CACHE_FILE).
	featureCache = "/run/criu.kdat"
	// guardFeature and scanFeature are what criu check calls that the kernel tells guard pages, and that it tells pages that way at all.
	guardFeature = "pagemap_scan_guard_pages"
	scanFeature  = "pagemap_scan"
)

// GuardlessDir keeps the copies of a node, by what they were made of.
const GuardlessDir = "/run/godwit/criu"

// maxFeatureCache is well over the size of CRIU's cache, which is 912 bytes.
const maxFeatureCache = 64 << 10

// Guardless makes copies of CRIU's cache which say that the kernel does not tell guard pages, and finds them.
type Guardless struct {
	// Dir keeps them.
	Dir string
	// Cache is the file that CRIU reads.
	Cache string
	// Showing is a command like that of DumpConfig.
	Showing []string
	// Run runs a command to its end.
	Run func(ctx context.Context, cmd *exec.Cmd) error
}

// NewGuardless is for the CRIU in PATH.
func NewGuardless(showing []string, run func(context.Context, *exec.Cmd) error) *Guardless {
	return &Guardless{Dir: GuardlessDir, Cache: featureCache, Showing: showing, Run: run}
}

var (
	// errKnowsNone: there is nothing to take from this CRIU.
	errKnowsNone = errors.New("CRIU does not know guard pages, or the kernel does not tell them")
	// errNoByte: the cache is another than we know.
	errNoByte = errors.New("no byte of CRIU's cache of kernel features says that the kernel tells guard pages")
)

// Ready finds the copy of the cache as it is now, for the CRIU that is installed now. It takes a moment. There is none if none was made.
func (g *Guardless) Ready() (path string, ok bool) {
	content, path, err := g.current()
	if err != nil {
		return "", false
	}
	made, err := readSmall(path)
	return path, err == nil && lacksOne(content, made)
}

// Make makes the copy unless there is one. It starts CRIU a few times, 10 ms each.
func (g *Guardless) Make(ctx context.Context) error {
	if _, ok := g.Ready(); ok {
		return nil
	}
	if !g.has(ctx, "", guardFeature) { // CRIU has written its cache then
		return errKnowsNone
	}
	content, path, err := g.current()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(g.Dir, 0o700); err != nil {
		return fmt.Errorf("directory for copies of CRIU's cache: %w", err)
	}
	copied, err := os.CreateTemp(g.Dir, trial+"*")
	if err != nil {
		return fmt.Errorf("copy of CRIU's cache: %w", err)
	}
	defer os.Remove(copied.Name())
	defer copied.Close()
	err = findByte(content, func(other []byte) (bool, error) {
		if _, err := copied.WriteAt(other, 0); err != nil {
			return false, fmt.Errorf("copy of CRIU's cache: %w", err)
		}
		return !g.has(ctx, copied.Name(), guardFeature) && g.has(ctx, copied.Name(), scanFeature), ctx.Err()
	})
	if err != nil {
		return err
	}
	g.removeOthers(path)
	if err := os.Rename(copied.Name(), path); err != nil {
		return fmt.Errorf("keep copy of CRIU's cache: %w", err)
	}
	return nil
}

// has asks CRIU for a feature, with a copy of its cache if one is named. One that cannot be asked has none.
func (g *Guardless) has(ctx context.Context, copied, feature string) bool {
	args := []string{"criu", "check", "--no-default-config", "--feature", feature}
	if copied != "" {
		args = slices.Concat(g.Showing, []string{copied, g.Cache, "--"}, args)
	}
	cmd := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stdout = &said
	return g.Run(ctx, cmd) == nil && bytes.Contains(said.Bytes(), []byte(feature+" is supported"))
}

// current is what CRIU's cache has, and the name of the copy that belongs to it and to the program that reads it.
func (g *Guardless) current() (content []byte, path string, err error) {
	if content, err = readSmall(g.Cache); err != nil {
		return nil, "", fmt.Errorf("CRIU's cache of kernel features: %w", err)
	}
	program, found := findProgram()
	if !found {
		return nil, "", exec.ErrNotFound
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%v\n%s", program, content)
	return content, filepath.Join(g.Dir, hex.EncodeToString(sum.Sum(nil)[:16])), nil
}

// trialAge is how old a trial is at least whose maker is no more.
const trialAge = time.Minute

// removeOthers removes copies for caches and programs that are no more, and what makers that were killed have left.
func (g *Guardless) removeOthers(path string) {
	made, _ := os.ReadDir(g.Dir)
	for _, e := range made {
		info, err := e.Info()
		if err != nil || e.Name() == filepath.Base(path) || strings.HasPrefix(e.Name(), trial) && time.Since(info.ModTime()) < trialAge {
			continue
		}
		os.Remove(filepath.Join(g.Dir, e.Name()))
	}
}

// readSmall reads a file that is not empty and not larger than such a cache.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if n := info.Size(); n == 0 || n > maxFeatureCache || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no such file, with %d bytes", path, n)
	}
	return os.ReadFile(path)
}

// trial is how the name of a copy begins that nobody may take yet.
const trial = ".trial-"

// Bytes of a bool.
const (
	yes = 1
	no  = 0
)

// cacheMagic is how many bytes tell at the beginning whose cache it is: without them CRIU finds everything out again.
const cacheMagic = 8

// maxTries is how many bytes are tried: what is new in a release of CRIU stands behind what it had.
const maxTries = 32

// findByte finds the byte of the cache that is to be another: lacks tells of a copy whether CRIU misses the feature with it, and nothing else.
// The copy that it is asked about last is the one.
func findByte(content []byte, lacks func(copied []byte) (bool, error)) error {
	copied := slices.Clone(content)
	tries := 0
	for i := len(content) - 1; i >= cacheMagic && tries < maxTries; i-- {
		if content[i] != yes {
			continue
		}
		tries++
		copied[i] = no
		found, err := lacks(copied)
		if err != nil || found {
			return err
		}
		copied[i] = yes
	}
	return errNoByte
}

// lacksOne says whether a copy is what findByte would make of it.
func lacksOne(content, copied []byte) bool {
	if len(content) != len(copied) {
		return false
	}
	changed := 0
	for i := range content {
		if content[i] == copied[i] {
			continue
		}
		if changed++; i < cacheMagic || content[i] != yes || copied[i] != no {
			return false
		}
	}
	return changed == 1
}
