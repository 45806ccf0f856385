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
	files, _ := testRelay(t, PreDump)
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
	c := config{path: filepath.Join(t.TempDir(), "criu.conf")}
	r, err := c.relay(traits{scripts: true})
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
	// A CRIU that runs what it is told, as what it becomes finds it.
	if err := os.WriteFile(filepath.Join(bin, "criu"), []byte("#!/bin/sh\nexec sh -c \"$2\"\n"), 0o700); err != nil {
		t.Fatal(err)
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
		run := func(name string, args ...string) string {
			cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", name + ` "$@"`, "sh"}, args...)...)
			cmd.Env = c.environment(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v: %s", command, err, out)
			}
			return string(out)
		}
		if got := run("criu", "-c", command); got != want {
			t.Errorf("%s, called by CRIU: %q, want %q", command, got, want)
		}
		if got := run("sh", "-c", command); got != command+"\n" {
			t.Errorf("%s, called by a hook of runc's: %q", command, got)
		}
	}
}
