package criu

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// CRIU up to 4.2.0 crashes on network-lock in the file that a request names, and calls its action script twice.
func TestWhatOldCRIUsMayReadOnlyOnceIsInTheirUsersFile(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.Mkdir(filepath.Join(home, ".criu"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, userConfig), []byte("verbosity 4"), 0o600); err != nil {
		t.Fatal(err)
	}
	for side, lines := range map[string][]string{"dump": dumpConfig(), "restore": restoreConfig(true)} {
		c := config{path: filepath.Join(t.TempDir(), "criu.conf")}
		if err := c.write(&Relay{traits: traits{scripts: true}}, []External{{"/dev", "own"}}, lines); err != nil {
			t.Fatal(err)
		}
		named, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if s := string(named); strings.Contains(s, "network-lock") || strings.Contains(s, "action-script") || !strings.Contains(s, "manage-cgroups=ignore\n") {
			t.Errorf("%s, the file that is named:\n%s", side, s)
		}
		env := c.environment([]string{"HOME=/root"})
		users, err := os.ReadFile(filepath.Join(strings.TrimPrefix(env[1], "HOME="), ".criu", "default.conf"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"verbosity 4", "network-lock skip", "external mnt[/dev]:own"}
		if got := strings.Split(strings.TrimSpace(string(users)), "\n"); !slices.Equal(got, want) {
			t.Errorf("%s, the user's file: %q", side, got)
		}
		c.remove()
		if left, _ := os.ReadDir(filepath.Dir(c.path)); len(left) > 0 {
			t.Errorf("%s: %s is left", side, left[0].Name())
		}
	}
}

func TestACRIUWithoutScriptsHearsOfNoneAndFindsTheStandInFirst(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	if err := os.Mkdir(filepath.Join(home, ".criu"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, userConfig), []byte("action-script /theirs\nverbosity 4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config{path: filepath.Join(t.TempDir(), "criu.conf")}
	g, err := c.relay(traits{}, PreDump)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.write(g, []External{{"/dev", "own"}}, nil); err != nil {
		t.Fatal(err)
	}
	users, err := os.ReadFile(filepath.Join(c.home(), userConfig))
	if err != nil || string(users) != "verbosity 4\nnetwork-lock iptables\nexternal mnt[/dev]:own\n" {
		t.Errorf("the user's file: %q, %v", users, err)
	}
	env := c.environment([]string{"PATH=/a", "PATH=/b:/c"})
	for _, want := range []string{"PATH=" + c.bin() + ":/b:/c", EnvStandIns + "=" + c.bin()} {
		if !slices.Contains(env, want) {
			t.Errorf("no %q in %q", want, env)
		}
	}
	g.Close()
	c.remove()
	if left, _ := os.ReadDir(filepath.Dir(c.path)); len(left) > 0 {
		t.Errorf("%s is left", left[0].Name())
	}
}

// CRIU calls first what it was told of last, and hears of the named file's scripts after the user's.
func TestTheMachinesActionScriptsAreToldOfWithOurs(t *testing.T) {
	scripts, others := actionScripts([]string{"tcp-close", "action-script /a", "  action-script=/b c", "action-scripts", "", "action-script"})
	if want := []string{"action-script /a", "  action-script=/b c", "action-script"}; !slices.Equal(scripts, want) {
		t.Errorf("scripts %q, want %q", scripts, want)
	}
	if want := []string{"tcp-close", "action-scripts", ""}; !slices.Equal(others, want) {
		t.Errorf("others %q, want %q", others, want)
	}
}
