package identity

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/wire/pki"
)

func TestACertificateIsAskedForWhenTheOneThereIsWillNotDo(t *testing.T) {
	ip, other := net.IPv4(192, 0, 2, 1), net.IPv4(192, 0, 2, 2)
	ca, dir := t.TempDir(), t.TempDir()
	if err := pki.Init(ca); err != nil {
		t.Fatal(err)
	}
	if err := pki.Issue(ca, "a", []net.IP{ip}, dir); err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(ca, pki.CACertFile))
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	tests := map[string]struct {
		node      string
		dir       string
		authority string
		ips       []net.IP
		in        time.Duration
		why       string
	}{
		"good":                       {"a", dir, string(authority), []net.IP{ip}, 0, ""},
		"good for a while":           {"a", dir, string(authority), []net.IP{ip}, 240 * day, ""},
		"nearly over":                {"a", dir, string(authority), []net.IP{ip}, 250 * day, "holds for another"},
		"none":                       {"a", t.TempDir(), string(authority), []net.IP{ip}, 0, "no such file"},
		"another node's":             {"b", dir, string(authority), []net.IP{ip}, 0, "node a's"},
		"of a node that moved":       {"a", dir, string(authority), []net.IP{other}, 0, "192.0.2.2"},
		"of an authority that is no": {"a", dir, "another", []net.IP{ip}, 0, "authority has changed"},
	}
	for name, tt := range tests {
		k := &Keeper{Node: tt.node, Dir: tt.dir}
		why := k.wants([]byte(tt.authority), tt.ips, time.Now().Add(tt.in))
		if tt.why == "" && why != "" || !strings.Contains(why, tt.why) {
			t.Errorf("%s: %q, want %q", name, why, tt.why)
		}
	}
}
