package criu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestAnotherCallOfCRIUIsNotRelayed(t *testing.T) {
	files, _ := newRelay(t, PreDump)
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "criu"), []byte("#!/bin/sh\necho \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(files.bin(), standInCRIU), "--version")
	cmd.Args[0] = standInCRIU
	cmd.Env = files.environment([]string{"PATH=" + bin + ":" + os.Getenv("PATH")})
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "--version\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTheNetworkIsNotLockedAndOtherRulesAreCarried(t *testing.T) {
	c := config{filepath.Join(t.TempDir(), "criu.conf")}
	r, err := c.relay(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	bin := t.TempDir()
	for name := range networkLockers {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\necho \"${0##*/} $@\"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for command, want := range map[string]string{
		"iptables -w -t filter -I INPUT --protocol tcp -j DROP": "",
		"ip6tables -D OUTPUT --protocol tcp -j DROP":            "",
		"iptables -C INPUT -j CRIU":                             "",
		"iptables-restore -w --noflush":                         "",
		"ip6tables-restore -w --noflush":                        "",
		"iptables -n -w -L":                                     "iptables -n -w -L\n",
		"iptables-restore -w":                                   "iptables-restore -w\n",
		"ip6tables-restore -V":                                  "ip6tables-restore -V\n",
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
		cmd.Env = c.environment(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")))
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: %v: %q, want %q", command, err, out, want)
		}
	}
}
