package criu

import (
	"context"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"godwit.dev/godwit/pagestream/criuversion"
)

// programFile is what tells one installed CRIU from the next, which takes its place: nobody waits for a CRIU that says its version each time.
type programFile struct {
	path     string
	dev, ino uint64
	size     int64
	changed  syscall.Timespec
}

// asked keeps the answer of the CRIU that was asked last.
var asked struct {
	sync.Mutex
	file    programFile         // guarded by the mutex
	version criuversion.Version // guarded by the mutex
}

// callsScripts says whether the CRIU that runc finds calls action scripts. One that cannot say its version has worse to tell soon.
func callsScripts(ctx context.Context, run func(context.Context, *exec.Cmd) error) bool {
	v, err := installed(ctx, run)
	return err != nil || v.CallsScripts()
}

// installed asks the CRIU in PATH, once. The error wraps criuversion.ErrNone or ErrUnknown.
func installed(ctx context.Context, run func(context.Context, *exec.Cmd) error) (criuversion.Version, error) {
	file, found := findProgram()
	asked.Lock()
	defer asked.Unlock()
	if found && file == asked.file {
		return asked.version, nil
	}
	v, err := criuversion.Installed(ctx, run)
	if err == nil && found {
		asked.file, asked.version = file, v
	}
	return v, err
}

// findProgram finds the CRIU in PATH.
func findProgram() (programFile, bool) {
	path, err := exec.LookPath("criu")
	if err != nil {
		return programFile{}, false
	}
	info, err := os.Stat(path)
	if err != nil {
		return programFile{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return programFile{}, false
	}
	return programFile{path: path, dev: st.Dev, ino: st.Ino, size: st.Size, changed: st.Ctim}, true
}
