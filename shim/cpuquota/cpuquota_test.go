package cpuquota

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// groups makes a new control group in each hierarchy of this machine that limits
// processor time.
func groups(t *testing.T) map[string]*Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("control groups need root")
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		for _, controller := range []string{"cpu", "cpuacct"} {
			if f[2] == "cgroup" && has(f[3], controller) {
				found[controller] = make1(t, f[1])
			}
		}
		if controllers, err := read(filepath.Join(f[1], "cgroup.controllers")); f[2] == "cgroup2" && err == nil && strings.Contains(controllers, "cpu") {
			_ = os.WriteFile(filepath.Join(f[1], "cgroup.subtree_control"), []byte("+cpu"), 0)
			found["v2"] = make1(t, f[1])
		}
	}
	all := map[string]*Group{}
	if found["cpu"] != "" && found["cpuacct"] != "" {
		all["v1"], err = open(found["cpu"], found["cpuacct"], false)
	}
	if found["v2"] != "" && err == nil {
		all["v2"], err = open(found["v2"], found["v2"], true)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Skip("no control group of this machine limits processor time")
	}
	return all
}

// make1 makes one below a mount.
func make1(t *testing.T, mount string) string {
	t.Helper()
	at := filepath.Join(mount, "godwit-quota-test-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Skip(err)
	}
	t.Cleanup(func() {
		// It stays busy for a moment after its last process.
		for unix.Rmdir(at) == unix.EBUSY {
			time.Sleep(time.Millisecond)
		}
	})
	return at
}

func (g *Group) set(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(g.quota, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func (g *Group) has(t *testing.T, want string) {
	t.Helper()
	if now, err := read(g.quota); err != nil || now != want {
		t.Errorf("%s has %q (%v), want %q", g.quota, now, err, want)
	}
}

// texts are quotas by version: none, 0.5 cores, and 0.25 cores of another period.
var texts = map[string][]string{"v1": {"-1", "50000", "25000"}, "v2": {"max 100000", "50000 100000", "10000 40000"}}

func TestQuotaIsPutBackExactly(t *testing.T) {
	for version, g := range groups(t) {
		for _, was := range texts[version] {
			t.Run(version+" "+was, func(t *testing.T) {
				g.set(t, was)
				path := filepath.Join(t.TempDir(), "record")
				h := NewHold(g, path)
				if err := errors.Join(h.Lower(0.2), h.Lower(0.1)); err != nil {
					t.Fatal(err)
				}
				if cores, foreign, err := h.Limit(); cores != 0.1 || foreign || err != nil {
					t.Errorf("limit %v, %v, %v", cores, foreign, err)
				}
				if err := h.Release(); err != nil {
					t.Fatal(err)
				}
				g.has(t, was)
				if exists(path) {
					t.Error("the record is still there")
				}
				if err := errors.Join(h.Release(), PutBack(path)); err != nil {
					t.Errorf("once more: %v", err)
				}
			})
		}
	}
}

func TestQuotaIsPutBackByTheRecordOfOneThatDied(t *testing.T) {
	for version, g := range groups(t) {
		was := texts[version][1]
		g.set(t, was)
		path := filepath.Join(t.TempDir(), "record")
		dead := NewHold(g, path)
		if err := errors.Join(dead.Lower(0.2), dead.Lower(0.1)); err != nil {
			t.Fatal(err)
		}
		if err := PutBack(path); err != nil {
			t.Fatal(err)
		}
		g.has(t, was)
		if exists(path) {
			t.Error("the record is still there")
		}
		// It died between the record and the change, and before the first one.
		for _, now := range []string{g.text(0.2, 100*time.Millisecond), g.text(0.1, 100*time.Millisecond), was} {
			r := record{File: g.quota, Was: was, Ours: []string{g.text(0.2, 100*time.Millisecond), g.text(0.1, 100*time.Millisecond)}}
			if err := r.save(path); err != nil {
				t.Fatal(err)
			}
			g.set(t, now)
			if err := PutBack(path); err != nil {
				t.Errorf("%s: %v", now, err)
			}
			g.has(t, was)
		}
	}
}

func TestQuotaOfSomebodyElseIsLeftAlone(t *testing.T) {
	for version, g := range groups(t) {
		path := filepath.Join(t.TempDir(), "record")
		h := NewHold(g, path)
		if err := h.Lower(0.2); err != nil {
			t.Fatal(err)
		}
		theirs := texts[version][1]
		g.set(t, theirs)
		if err := h.Lower(0.1); !errors.Is(err, ErrForeign) {
			t.Errorf("lowered: %v", err)
		}
		if _, foreign, err := h.Limit(); !foreign || err != nil {
			t.Errorf("foreign %v, %v", foreign, err)
		}
		if err := PutBack(path); !errors.Is(err, ErrForeign) {
			t.Errorf("put back by the record: %v", err)
		}
		if err := h.Release(); !errors.Is(err, ErrForeign) {
			t.Errorf("released: %v", err)
		}
		g.has(t, theirs)
		if err := h.Release(); err != nil {
			t.Errorf("released again: %v", err)
		}
	}
}

func TestQuotaIsNeverBelowWhatTheKernelTakes(t *testing.T) {
	for _, g := range groups(t) {
		h := NewHold(g, filepath.Join(t.TempDir(), "record"))
		if err := h.Lower(0); err != nil {
			t.Fatal(err)
		}
		if cores, _, err := h.Limit(); cores != 0.01 || err != nil {
			t.Errorf("%v cores, %v", cores, err)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
		if !exists(g.burst) {
			continue
		}
		if err := h.Lower(0.5); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(g.burst, []byte("30000"), 0); err != nil {
			t.Fatal(err)
		}
		if err := h.Lower(0.1); err != nil {
			t.Errorf("below the burst: %v", err)
		}
		if err := os.WriteFile(g.burst, []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
		if err := h.Release(); err != nil {
			t.Error(err)
		}
	}
}

func TestQuotaThatCannotBeLoweredLeavesNoRecord(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g, err := open(dir, dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := NewHold(g, filepath.Join(g.period, "record")).Lower(0.5); err == nil {
		t.Error("no error with a file where the record's directory is to be")
	}
	g.has(t, "-1") // nothing is changed that no record tells of
	if err := os.Remove(g.quota); err != nil {
		t.Fatal(err)
	}
	if _, err := open(dir, dir, false); !errors.Is(err, ErrNoQuota) {
		t.Errorf("without the file: %v", err)
	}
	gone := record{File: g.quota, Was: "-1", Ours: []string{"1000"}}
	if err := gone.putBack(); err != nil {
		t.Errorf("a group that is gone: %v", err)
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := PutBack(bad); err == nil {
		t.Error("no error for half a record")
	}
}

func TestQuotaOfAProcessAndWhatItUses(t *testing.T) {
	own, err := Open(os.Getpid())
	if errors.Is(err, ErrNoQuota) {
		t.Log(err) // the root group of version 2
	} else if err != nil {
		t.Fatal(err)
	} else if _, err := own.now(); err != nil {
		t.Error(err)
	}
	for _, g := range groups(t) {
		cmd := exec.Command("sh", "-c", `for d in "$@"; do echo $$ >"$d/cgroup.procs"; done; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done`,
			"sh", filepath.Dir(g.quota), filepath.Dir(g.usage))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if used, err := g.Used(); used <= 0 || err != nil {
			t.Errorf("it used %v, %v", used, err)
		}
	}
}

func TestDirOfAGroup(t *testing.T) {
	const v1 = "5:cpuset:/a\n4:cpuacct:/b/c\n3:nowhere-cpu,cpu:/b:c\n0::/d\n"
	for _, c := range []struct {
		controller string
		unified    bool
		want       string
	}{
		{"cpu", false, root + "/cpu/b:c"},
		{"cpu", true, root + "/d"},
		{"memory", false, ""},
	} {
		got, err := dir(v1, c.controller, c.unified)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v", c.controller, got, err)
		}
	}
}
