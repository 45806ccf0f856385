package shim

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	gorunc "github.com/containerd/go-runc"
)

// fakeRunc is a program that fails as often as a file's lines say, and writes a line each time.
const fakeRunc = `#!/bin/sh
echo "attempt of $2" >&1
read -r rest <DIR/left && [ "$rest" -gt 0 ] || exit 0
echo $((rest - 1)) >DIR/left
exit 3
`

// runFake runs the program as `runc restore c1` through a monitor, as the stock service does: it closes its end of
// the pipe as soon as the program has started.
func runFake(t *testing.T, m *restoreMonitor, failures string) (output string, status int, err error) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "runc")
	if err := os.WriteFile(program, []byte(strings.ReplaceAll(fakeRunc, "DIR", dir)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "left"), []byte(failures+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(program, "restore", "c1")
	cmd.Stdout = w
	exits, err := m.Start(cmd)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	status, err = m.Wait(cmd, exits)
	out, rerr := io.ReadAll(r) // ends, so nobody has kept the pipe
	if rerr != nil {
		t.Fatal(rerr)
	}
	return string(out), status, err
}

func TestASupervisedRestoreIsRunAgainWithTheSameFiles(t *testing.T) {
	m := newRestoreMonitor(gorunc.Monitor)
	var ends []error
	forget := m.supervise("c1", nil, func(err error) bool {
		ends = append(ends, err)
		return err != nil
	})
	out, status, err := runFake(t, m, "2")
	if status != 0 || err != nil {
		t.Errorf("it ended with status %d, %v", status, err)
	}
	if want := strings.Repeat("attempt of c1\n", 3); out != want {
		t.Errorf("it wrote %q, want %q", out, want)
	}
	if len(ends) != 3 || ends[0] == nil || ends[1] == nil || ends[2] != nil {
		t.Errorf("the supervisor was told of %v", ends)
	}
	forget()
	if _, status, err := runFake(t, m, "2"); status != 3 || err != nil {
		t.Errorf("with nobody to supervise it ended with status %d, %v", status, err)
	}
	if len(ends) != 3 || len(m.copies) != 0 {
		t.Errorf("%d ends, %d commands kept", len(ends), len(m.copies))
	}
}

func TestARestoreThatIsNotToBeRunAgainFails(t *testing.T) {
	m := newRestoreMonitor(gorunc.Monitor)
	defer m.supervise("c1", nil, func(error) bool { return false })()
	if _, status, err := runFake(t, m, "1"); status != 3 || err != nil {
		t.Errorf("it ended with status %d, %v", status, err)
	}
	defer m.supervise("c2", nil, func(error) bool { return true })()
	if _, status, err := runFake(t, m, "1"); status != 3 || err != nil {
		t.Errorf("supervised by another container's it ended with status %d, %v", status, err)
	}
}

func TestOnlyRestoresAreSupervised(t *testing.T) {
	m := newRestoreMonitor(gorunc.Monitor)
	defer m.supervise("c1", nil, func(error) bool { return true })()
	for args, want := range map[string]bool{
		"runc --root /r restore --detach c1": true,
		"runc restore c1":                    true,
		"runc restore c2":                    false,
		"runc delete c1":                     false,
		"runc exec c1 restore":               false,
		"restore c1":                         false,
	} {
		if _, supervised := m.supervisor(&exec.Cmd{Args: strings.Fields(args)}); supervised != want {
			t.Errorf("%q: supervised is %v", args, supervised)
		}
	}
	if failureOf(0, nil) != nil || failureOf(1, nil) == nil || !errors.Is(failureOf(-1, io.EOF), io.EOF) {
		t.Error("a failure is no error, or the other way round")
	}
}
