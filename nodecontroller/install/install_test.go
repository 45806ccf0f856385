package install

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// fakeContainerd reads its configuration below root, as far as the tests need it; the real one is asked in test/lab.
type fakeContainerd struct {
	root     string
	config   string
	version  string
	running  bool // whether the running one has the handler
	restarts int
	pods     []string
	spoil    bool // drop-ins replace what the file says
}

func (f *fakeContainerd) Version(context.Context) (string, error) { return f.version, nil }
func (f *fakeContainerd) Handler(context.Context) (bool, error)   { return f.running, nil }
func (f *fakeContainerd) Clear(context.Context) ([]string, error) { return f.pods, nil }

func (f *fakeContainerd) Restart(ctx context.Context) error {
	f.restarts++
	dump, err := f.Dump(ctx, f.config)
	f.running = takeRuntime(dump)
	return err
}

func (f *fakeContainerd) Dump(_ context.Context, file string) (map[string]any, error) {
	dump := map[string]any{}
	b, err := os.ReadFile(filepath.Join(f.root, file))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := toml.Unmarshal(b, &dump); err != nil {
		return nil, err
	}
	dump["version"] = newestConfig // as containerd says it
	runtimes := map[string]any{"runc": true}
	imports, _ := dump["imports"].([]any)
	for _, pattern := range imports {
		matches, _ := filepath.Glob(filepath.Join(f.root, pattern.(string)))
		for _, m := range matches {
			if filepath.Base(m) == dropInName {
				runtimes["godwit"] = true
			}
			if f.spoil {
				delete(runtimes, "runc")
			}
		}
	}
	dump["plugins"] = map[string]any{runtimePlugins[newestConfig]: map[string]any{"containerd": map[string]any{"runtimes": runtimes}}}
	return dump, nil
}

const configFile = "/etc/containerd/config.toml"

// newNode is a node with that configuration of containerd; "" for none.
func newNode(t *testing.T, config string) (*Installer, *fakeContainerd) {
	t.Helper()
	root, source := t.TempDir(), t.TempDir()
	for _, name := range programs[:requiredPrograms] {
		if err := os.WriteFile(filepath.Join(source, name), []byte("program "+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "usr/local/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		put(t, root, configFile, config)
	}
	c := &fakeContainerd{root: root, config: configFile, version: "2.1.9"}
	return &Installer{
		Options: Options{
			Root: root, Source: source, BinDir: "/usr/local/bin", ConfigFile: configFile, DropInDir: "/etc/containerd/conf.d",
			StateDir: "/var/lib/godwit", RunDir: "/run/godwit", Owner: "test",
		},
		Containerd: c, Log: slog.New(slog.DiscardHandler),
	}, c
}

func put(t *testing.T, root, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

// tree is every file with its content and mode.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		}
		all[strings.TrimPrefix(path, root)] = info.Mode().String() + " " + content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func wantTree(t *testing.T, root string, want map[string]string) {
	t.Helper()
	got := tree(t, root)
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if w, ok := want[path]; !ok || w != got[path] {
			t.Errorf("%s is %q, was %q", path, got[path], w)
		}
	}
	for path := range want {
		if _, ok := got[path]; !ok {
			t.Errorf("%s is gone", path)
		}
	}
}

func mustInstall(t *testing.T, i *Installer) {
	t.Helper()
	if err := i.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestUninstallLeavesTheNodeAsItWas(t *testing.T) {
	configs := map[string]string{
		"none":              "",
		"no imports":        "version = 3\n[plugins.'x']\n  a = 1\n",
		"version 2":         "version = 2\n\n[plugins]\n",
		"imports of others": "version = 3\nimports = ['/etc/other.toml'] # mine\n[plugins]\n",
		"empty imports":     "imports = [ ]\nversion = 3\n",
		"imports in lines":  "version = 3\nimports = [\n  \"/a.toml\",\n]\n",
		"imports it":        "version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n",
		"no newline":        "version = 3",
		"a table's imports": "version = 3\n[plugins.x]\nimports = ['/etc/containerd/conf.d/*.toml']\n",
	}
	for name, config := range configs {
		t.Run(name, func(t *testing.T) {
			i, c := newNode(t, config)
			for _, dir := range []string{"var/lib", "run", "etc"} {
				if err := os.MkdirAll(filepath.Join(i.Root, dir), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			before := tree(t, i.Root)
			mustInstall(t, i)
			if !c.running || c.restarts != 1 {
				t.Fatalf("handler %v after %d restarts", c.running, c.restarts)
			}
			mustInstall(t, i)
			if c.restarts != 1 {
				t.Error("a second install restarted containerd")
			}
			left, err := i.Uninstall(t.Context(), false)
			if err != nil || len(left) > 0 {
				t.Fatalf("left %v, %v", left, err)
			}
			if c.running || c.restarts != 2 {
				t.Errorf("handler %v after %d restarts", c.running, c.restarts)
			}
			wantTree(t, i.Root, before)
		})
	}
}

func TestInstallRefusesBeforeItTouchesAnything(t *testing.T) {
	tests := map[string]struct {
		config  string
		prepare func(*testing.T, *Installer, *fakeContainerd)
		want    error
		says    string
	}{
		"an old containerd":      {"version = 2\n", func(_ *testing.T, _ *Installer, c *fakeContainerd) { c.version = "1.7.28" }, ErrContainerd, "1.7.28"},
		"a broken configuration": {"version = 3\nx = [\n", nil, ErrContainerd, "line 2"},
		"an old configuration":   {"[plugins.cri]\n", nil, ErrContainerd, "version 0"},
		"somebody else's program": {"version = 3\n", func(t *testing.T, i *Installer, _ *fakeContainerd) {
			put(t, i.Root, "/usr/local/bin/godwitctl", "other")
		}, ErrForeign, "godwitctl"},
		"somebody else's drop-in": {"version = 3\n", func(t *testing.T, i *Installer, _ *fakeContainerd) {
			put(t, i.Root, "/etc/containerd/conf.d/godwit.toml", "other")
		}, ErrForeign, "godwit.toml"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i, c := newNode(t, tt.config)
			if tt.prepare != nil {
				tt.prepare(t, i, c)
			}
			if err := os.MkdirAll(filepath.Join(i.Root, i.StateDir), 0o700); err != nil {
				t.Fatal(err)
			}
			before := tree(t, i.Root)
			err := i.Install(t.Context())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v", err)
			}
			wantTree(t, i.Root, before)
		})
	}
}

func TestADropInThatSpoilsOtherSettingsIsTakenBack(t *testing.T) {
	i, c := newNode(t, "version = 3\n")
	c.spoil = true
	if err := i.Install(t.Context()); !errors.Is(err, ErrContainerd) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(i.at(configFile)); string(b) != "version = 3\n" || c.restarts > 0 {
		t.Errorf("configuration %q, %d restarts", b, c.restarts)
	}
	if _, err := os.Stat(i.at("/etc/containerd/conf.d/godwit.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the drop-in is left")
	}
}

func TestUninstallLeavesAndNamesWhatOthersChanged(t *testing.T) {
	i, _ := newNode(t, "version = 3\n")
	mustInstall(t, i)
	put(t, i.Root, "/usr/local/bin/godwitctl", "patched")
	config, err := os.ReadFile(i.at(configFile))
	if err != nil {
		t.Fatal(err)
	}
	put(t, i.Root, configFile, string(config)+"# mine\n")
	left, err := i.Uninstall(t.Context(), false)
	if want := []string{configFile, "/usr/local/bin/godwitctl"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left %v, %v; want %v", left, err, want)
	}
	for path, want := range map[string]string{"/usr/local/bin/godwitctl": "patched", configFile: string(config) + "# mine\n"} {
		if b, _ := os.ReadFile(i.at(path)); string(b) != want {
			t.Errorf("%s is %q", path, b)
		}
	}
}

func TestUninstallIsRefusedWhileItIsInUse(t *testing.T) {
	i, c := newNode(t, "version = 3\n")
	mustInstall(t, i)
	c.pods = []string{"default/cache"}
	if _, err := i.Uninstall(t.Context(), false); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "default/cache") {
		t.Errorf("with a pod: %v", err)
	}
	c.pods = nil
	put(t, i.Root, "/var/lib/godwit/migrations/m-1", "{}")
	if _, err := i.Uninstall(t.Context(), false); !errors.Is(err, ErrInUse) {
		t.Errorf("with a migration: %v", err)
	}
	if _, err := i.Uninstall(t.Context(), true); err != nil {
		t.Errorf("with force: %v", err)
	}
}

func TestWhatSeveralInstalledStaysUntilTheLast(t *testing.T) {
	i, c := newNode(t, "version = 3\n")
	mustInstall(t, i)
	i.Owner = "image"
	mustInstall(t, i)
	if _, err := i.Uninstall(t.Context(), false); err != nil || !c.running {
		t.Fatalf("after the first: handler %v, %v", c.running, err)
	}
	i.Owner = "test"
	if _, err := i.Uninstall(t.Context(), false); err != nil || c.running {
		t.Errorf("after the last: handler %v, %v", c.running, err)
	}
}

func TestANewProgramReplacesTheFileAndNotItsContent(t *testing.T) {
	i, c := newNode(t, "version = 3\n")
	mustInstall(t, i)
	shim := i.at("/usr/local/bin/" + programs[0])
	running, err := os.Open(shim)
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	old, _ := running.Stat()
	if err := os.WriteFile(filepath.Join(i.Source, programs[0]), []byte("newer"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, i)
	now, err := os.Stat(shim)
	if err != nil || os.SameFile(old, now) {
		t.Errorf("the running program's file was written to: %v", err)
	}
	if b, _ := os.ReadFile(shim); string(b) != "newer" {
		t.Errorf("%q", b)
	}
	if c.restarts != 1 {
		t.Error("a new program restarted containerd")
	}
	if left, err := i.Uninstall(t.Context(), false); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestAnInterruptedInstallCanBeUndone stops after each save of the record, which is before each step.
func TestAnInterruptedInstallCanBeUndone(t *testing.T) {
	i, c := newNode(t, "version = 3\n")
	r, err := i.load()
	if err != nil {
		t.Fatal(err)
	}
	p, err := i.plan(t.Context(), r)
	if err == nil {
		err = os.MkdirAll(i.at(i.StateDir), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The program is recorded and not placed; the edit is recorded, made, and containerd not restarted.
	r.Owners = []string{"test"}
	r.note(p.programs[0].path, p.programs[0].hash)
	if err := i.apply(r, p.config); err != nil {
		t.Fatal(err)
	}
	if left, err := i.Uninstall(t.Context(), false); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if b, _ := os.ReadFile(i.at(configFile)); string(b) != "version = 3\n" || c.restarts != 1 {
		t.Errorf("configuration %q, %d restarts", b, c.restarts)
	}
}

func TestDropInIsTheOneOfTheConfigurationsVersion(t *testing.T) {
	for version, plugin := range runtimePlugins {
		var got struct {
			Version int            `toml:"version"`
			Plugins map[string]any `toml:"plugins"`
		}
		if err := toml.Unmarshal([]byte(dropIn(version)), &got); err != nil {
			t.Fatal(err)
		}
		if _, ok := got.Plugins[plugin]; !ok || got.Version != version {
			t.Errorf("version %d: %+v", version, got)
		}
	}
}

func TestProgramsGoWhereContainerdLooks(t *testing.T) {
	i, _ := newNode(t, "version = 3\n[plugins.x]\n")
	for dir, ok := range map[string]bool{"/usr/local/bin": true, "/opt/containerd/bin": true, "/opt/godwit/bin": false, "/opt/containerd": false} {
		i.BinDir = dir
		err := i.checkSearchPath(map[string]any{"plugins": map[string]any{optPlugin: map[string]any{"path": "/opt/containerd"}}})
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrContainerd) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestDropInIsThatOfContrib keeps what is installed and what is installed by hand the same.
func TestDropInIsThatOfContrib(t *testing.T) {
	b, err := os.ReadFile("../../contrib/containerd/godwit.toml")
	if err != nil {
		t.Fatal(err)
	}
	var hand, placed map[string]any
	if err := errors.Join(toml.Unmarshal(b, &hand), toml.Unmarshal([]byte(dropIn(3)), &placed)); err != nil {
		t.Fatal(err)
	}
	want, _ := toml.Marshal(hand)
	got, _ := toml.Marshal(placed)
	if string(got) != string(want) {
		t.Errorf("placed\n%s\nby hand\n%s", got, want)
	}
}
