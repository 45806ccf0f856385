package nodecontroller

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"errors"
)

func writeConfigFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigHasDefaultsAndUnits(t *testing.T) {
	c, err := LoadConfig(writeConfigFile(t, `
node_name = "a"
store_limit = "4GiB"
pull_timeout = "0s"
stuck_after = "90s"
[peers]
b = "192.0.2.2:7440"
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.StoreLimit != 4<<30 || c.PullTimeout != 0 || c.StuckAfter != Duration(90*time.Second) || c.Peers["b"] != "192.0.2.2:7440" {
		t.Errorf("read as %+v", c)
	}
	d := defaultConfig()
	if c.Listen != d.Listen || c.StateDir != d.StateDir || c.MaxIncoming != d.MaxIncoming {
		t.Errorf("defaults are lost: %+v", c)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{`node_name = ""`, "node_name"},
		{`node_name = "a/b"`, "node_name"},
		{"node_name = \"a\"\nnode = \"b\"", "node"},
		{"node_name = \"a\"\nlisten = \"x\"", "listen"},
		{"node_name = \"a\"\nmetrics_listen = \"9441\"", "metrics_listen"},
		{"node_name = \"a\"\nadvertise = \":1\"", "advertise"},
		{"node_name = \"a\"\nstate_dir = \"var\"", "state_dir"},
		{"node_name = \"a\"\nmax_incoming = 0", "max_incoming"},
		{"node_name = \"a\"\nstuck_after = \"10ms\"", "stuck_after"},
		{"node_name = \"a\"\nstore_limit = \"4 bananas\"", "amount of bytes"},
		{"node_name = \"a\"\n[peers]\nb = \"b\"", "peers"},
		{"node_name = \"a\"\n[peers]\n\"b/c\" = \"b:1\"", "peers"},
		{`node_name = `, "configuration"},
	} {
		_, err := LoadConfig(writeConfigFile(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want one about %q", c.text, err, c.says)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "1": 1, "5B": 5, "1K": 1 << 10, "1KiB": 1 << 10, "3M": 3 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GiB", "-1", "1.5G", "1GB", "1 GiB", "0x10", "01", "1KK", "99999999999999999999", "18446744073709551615K"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", s, got)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	for _, s := range []string{"1", "1GiB", "16M", "iB", "1TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseBytes(s)
		if err == nil && n != 0 && !strings.ContainsAny(s[:1], "123456789") {
			t.Errorf("%q is %d", s, n)
		}
	})
}

func TestPeersFollowTheirFile(t *testing.T) {
	path := writeConfigFile(t, "node_name = \"a\"\n[peers]\nb = \"192.0.2.2:1\"\n")
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	table := newPeerTable(path, c, slog.New(slog.DiscardHandler))
	if address, err := table.lookup("b"); err != nil || address != "192.0.2.2:1" {
		t.Fatalf("b is at %q, %v", address, err)
	}
	if _, err := table.lookup("c"); !errors.Is(err, ErrUnknownPeer) {
		t.Errorf("c: %v, want ErrUnknownPeer", err)
	}
	write := func(text string, at time.Time) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(path, at, at)
	}
	write("node_name = \"a\"\n[peers]\nb = \"192.0.2.2:1\"\nc = \"192.0.2.3:1\"\n", time.Now().Add(time.Second))
	if address, err := table.lookup("c"); err != nil || address != "192.0.2.3:1" {
		t.Errorf("c is at %q, %v after the file changed", address, err)
	}
	write("broken", time.Now().Add(2*time.Second))
	if _, err := table.lookup("c"); err != nil {
		t.Errorf("a broken file took c away: %v", err)
	}
	if peers := table.list(); len(peers) != 2 || peers[0].Name != "b" || peers[1].Name != "c" {
		t.Errorf("peers %v, want b and c", peers)
	}
}

func TestEnvironmentSaysWhichNodeItIs(t *testing.T) {
	for name, tt := range map[string]struct {
		env                          map[string]string
		listen, wantListen, wantName string
		refused                      bool
	}{
		"nothing":       {nil, ":7440", ":7440", "file", false},
		"both":          {map[string]string{EnvNodeName: "a", EnvNodeIP: "192.0.2.1"}, ":7440", "192.0.2.1:7440", "a", false},
		"version 6":     {map[string]string{EnvNodeIP: "2001:db8::1"}, "0.0.0.0:1", "[2001:db8::1]:1", "file", false},
		"no address":    {map[string]string{EnvNodeIP: "node-1"}, ":7440", "", "", true},
		"a broken port": {map[string]string{EnvNodeIP: "192.0.2.1"}, "7440", "", "", true},
	} {
		c := Config{NodeName: "file", Listen: tt.listen}
		err := c.override(func(key string) string { return tt.env[key] })
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (c.NodeName != tt.wantName || c.Listen != tt.wantListen || tt.env[EnvNodeIP] != "" && c.Advertise != c.Listen) {
			t.Errorf("%s: %s, %s, %s", name, c.NodeName, c.Listen, c.Advertise)
		}
	}
}
