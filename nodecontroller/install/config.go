package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// dropInName is the drop-in's file name.
const dropInName = "godwit.toml"

// Where CRI's runtimes are in containerd's configuration, by its version. A
// drop-in must have the version of the file that imports it: containerd 2.1
// merges both before it migrates the result (cmd/containerd/server/config,
// LoadConfig), and would lose an old file's settings in a new one's version.
var runtimePlugins = map[int]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}

// newestConfig is the version of a configuration that is made anew.
const newestConfig = 3

// containerdPath are the directories in which containerd finds shims wherever
// it is started.
var containerdPath = []string{"/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin"}

// optPlugin puts a directory of its own into containerd's search path: for
// systems on which the others cannot be written to.
const optPlugin = "io.containerd.internal.v1.opt"

// checkSearchPath refuses a directory in which containerd does not find the
// shim. To name it by runtime_path will not do: containerd 2.1 remembers that for
// sandboxes and not for the containers in them, and loses those when it restarts
// (core/runtime/v2/shim_load.go).
func (i *Installer) checkSearchPath(dump map[string]any) error {
	found := containerdPath
	if plugins, ok := dump["plugins"].(map[string]any); ok {
		if opt, ok := plugins[optPlugin].(map[string]any); ok {
			if path, ok := opt["path"].(string); ok && path != "" {
				found = append(slices.Clone(found), filepath.Join(path, "bin"))
			}
		}
	}
	if !slices.Contains(found, filepath.Clean(i.BinDir)) {
		return fmt.Errorf("%w: it does not look for shims in %s: install to one of %s", ErrContainerd, i.BinDir, strings.Join(found, ", "))
	}
	return nil
}

// dropIn is the runtime handler for a configuration of that version. It says
// what contrib/containerd/godwit.toml does.
func dropIn(version int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Placed by godwit-node install, and removed by godwit-node uninstall.\nversion = %d\n\n", version)
	fmt.Fprintf(&b, "[plugins.'%s'.containerd.runtimes.godwit]\n", runtimePlugins[version])
	b.WriteString("  runtime_type = 'io.containerd.godwit.v2'\n")
	b.WriteString("  # The annotation by which a destination is told apart has to reach the shim.\n" +
		"  pod_annotations = ['godwit.dev/*']\n  container_annotations = ['godwit.dev/*']\n")
	return b.String()
}

// checkVersion refuses a containerd without the sandboxes and drop-ins of 2.0.
func (i *Installer) checkVersion(ctx context.Context) error {
	v, err := i.Containerd.Version(ctx)
	if err != nil {
		return fmt.Errorf("%w: its version: %w", ErrContainerd, err)
	}
	major, _, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	if n, err := strconv.Atoi(major); err != nil || n < 2 {
		return fmt.Errorf("%w: it is version %s, and 2.0 is the first that will do: upgrade it", ErrContainerd, v)
	}
	return nil
}

// config is containerd's configuration file as it is.
type config struct {
	path    string // without symbolic links, without the root
	exists  bool
	content []byte
	attributes
	version int
	imports []string
}

func (i *Installer) readConfig() (*config, error) {
	c := &config{path: i.ConfigFile, version: newestConfig, attributes: attributes{mode: 0o644}}
	if real, err := filepath.EvalSymlinks(i.at(c.path)); err == nil && i.Root == "" {
		c.path = real // it is the file that is replaced, not a link to it
	}
	info, err := os.Stat(i.at(c.path))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("containerd's configuration: %w", err)
	}
	c.exists, c.attributes = true, attributesOf(info)
	if c.content, err = os.ReadFile(i.at(c.path)); err != nil {
		return nil, fmt.Errorf("containerd's configuration: %w", err)
	}
	var known struct {
		Version int      `toml:"version"`
		Imports []string `toml:"imports"`
	}
	if err := toml.Unmarshal(c.content, &known); err != nil {
		at := ""
		if e := new(toml.DecodeError); errors.As(err, &e) {
			row, column := e.Position()
			at = fmt.Sprintf(" at line %d, column %d", row, column)
		}
		return nil, fmt.Errorf("%w: %s cannot be read%s: %w: mend it first", ErrContainerd, c.path, at, err)
	}
	if _, ok := runtimePlugins[known.Version]; !ok {
		return nil, fmt.Errorf("%w: %s has version %d, and 2 or 3 is needed: see `containerd config migrate`", ErrContainerd, c.path, known.Version)
	}
	c.version, c.imports = known.Version, known.Imports
	return c, nil
}

// edit is one insertion into containerd's configuration.
type edit struct {
	Path string `json:"path"`
	// Made: the file was not there, and all of it was inserted.
	Made bool `json:"made,omitempty"`
	// Offset and Inserted are what was inserted where, in bytes.
	Offset   int    `json:"offset"`
	Inserted string `json:"inserted"`
	// Before and After are the file's hashes.
	Before string `json:"before,omitempty"`
	After  string `json:"after"`

	attributes attributes
	content    []byte // after
}

// importing is the edit by which the drop-in gets imported, or nil if it is.
func (c *config) importing(pattern, dropIn string) (*edit, error) {
	for _, p := range c.imports {
		if !filepath.IsAbs(p) {
			p = filepath.Join(filepath.Dir(c.path), p)
		}
		if ok, err := filepath.Match(filepath.Clean(p), dropIn); err == nil && ok {
			return nil, nil
		}
	}
	e := &edit{Path: c.path, Made: !c.exists, attributes: c.attributes, Before: hashBytes(c.content)}
	switch at, sep, err := c.insertionPoint(); {
	case err != nil:
		return nil, err
	case !c.exists:
		e.Inserted = fmt.Sprintf("version = %d\nimports = ['%s']\n", c.version, pattern)
		e.Before = ""
	case at < 0:
		// Before everything: after a table's head it would be the table's.
		e.Inserted = fmt.Sprintf("imports = ['%s'] # for the drop-in of Godwit\n", pattern)
	default:
		e.Offset, e.Inserted = at, "'"+pattern+"'"+sep
	}
	e.content = slices.Concat(c.content[:e.Offset], []byte(e.Inserted), c.content[e.Offset:])
	e.After = hashBytes(e.content)
	return e, nil
}

// insertionPoint is where a further import goes into the list that the file has,
// and what follows it there; or -1 if the file has none.
func (c *config) insertionPoint() (at int, sep string, err error) {
	var p unstable.Parser
	p.Reset(c.content)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.KeyValue {
			break // a table: what follows is not the file's own
		}
		key := e.Key()
		if !key.Next() || string(key.Node().Data) != "imports" || !key.IsLast() {
			continue
		}
		if first := e.Value().Children(); first.Next() {
			return int(first.Node().Raw.Offset), ", ", nil
		}
		start := int(p.Range(key.Node().Data).Offset)
		if open := strings.IndexByte(string(c.content[start:]), '['); open >= 0 {
			return start + open + 1, "", nil
		}
		return 0, "", fmt.Errorf("%w: %s: imports is no list", ErrContainerd, c.path)
	}
	if err := p.Error(); err != nil {
		return 0, "", fmt.Errorf("%w: %s: %w", ErrContainerd, c.path, err)
	}
	return -1, "", nil
}

// apply makes the edit.
func (i *Installer) apply(r *record, e *edit) error {
	if err := i.makeDir(r, filepath.Dir(e.Path)); err != nil {
		return err
	}
	r.Edit = e
	if err := i.save(r); err != nil {
		return err
	}
	return writeWhole(i.at(e.Path), e.content, e.attributes)
}

// checkDump compares what containerd reads now with what it read before: the
// runtime must be there, and nothing else may differ.
func (i *Installer) checkDump(ctx context.Context, before map[string]any) error {
	after, err := i.Containerd.Dump(ctx, i.ConfigFile)
	if err != nil {
		return fmt.Errorf("%w: with the drop-in it does not read its configuration: %w", ErrContainerd, err)
	}
	if !takeRuntime(after) {
		return fmt.Errorf("%w: with the drop-in it still has no such runtime: does it read another file than %s?", ErrContainerd, i.ConfigFile)
	}
	takeRuntime(before)
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("%w: with the drop-in its other settings change as well: add the runtime to %s by hand", ErrContainerd, i.ConfigFile)
	}
	return nil
}

// takeRuntime removes the runtime and the imports from a dump, and says whether
// the runtime was there.
func takeRuntime(dump map[string]any) bool {
	delete(dump, "imports")
	at := dump
	for _, key := range []string{"plugins", runtimePlugins[newestConfig], "containerd", "runtimes"} {
		next, ok := at[key].(map[string]any)
		if !ok {
			return false
		}
		at = next
	}
	_, found := at["godwit"]
	delete(at, "godwit")
	return found
}
