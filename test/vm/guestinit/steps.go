package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/vm/guest"
)

// fdControl is the control port, in the child.
const fdControl = 3

// host is the way to the machine outside.
type host struct {
	mu  sync.Mutex // guards enc: a step's output comes from a goroutine
	enc *json.Encoder
}

func (h *host) say(m guest.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.enc.Encode(m)
}

// serve runs the steps, and tells the host.
func serve() error {
	unix.CloseOnExec(fdControl)
	control := os.NewFile(fdControl, "control")
	h := &host{enc: json.NewEncoder(control)}
	var s guest.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("what to do: %w", err)
	}
	env := append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
	}, s.Env...)
	for i, step := range s.Steps {
		if err := h.run(i, step, env); err != nil {
			return err
		}
	}
	if err := h.sendFiles(len(s.Steps)); err != nil {
		return err
	}
	if err := h.say(guest.Message{Done: true}); err != nil {
		return err
	}
	// The host has the message when it takes the machine away.
	_, _ = control.Read(make([]byte, 1))
	return nil
}

// run runs one step. An error is one of the way to the host.
func (h *host) run(i int, step guest.Step, env []string) error {
	began := time.Now()
	cmd := exec.Command(step.Args[0], step.Args[1:]...)
	cmd.Env, cmd.Dir = append(env[:len(env):len(env)], step.Env...), "/root"
	w := &output{h: h, step: i}
	cmd.Stdout, cmd.Stderr = w, w
	// What a step leaves running may hold its output open.
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	ended := &guest.Ended{Code: exitCode(err), Seconds: time.Since(began).Seconds()}
	if err != nil {
		ended.Error = err.Error()
	}
	return errors.Join(w.err, h.say(guest.Message{Step: i, Ended: ended}))
}

// exitCode is what a shell would say.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		return 127
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}

// output sends what a step writes.
type output struct {
	h    *host
	step int
	err  error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err == nil {
		o.err = o.h.say(guest.Message{Step: o.step, Output: b})
	}
	return len(b), o.err
}

// sendFiles sends what is in guest.Out; what is too large is said and left.
func (h *host) sendFiles(step int) error {
	return filepath.WalkDir(guest.Out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(guest.Out, path)
		if err != nil {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() > guest.MaxFile {
			return h.say(guest.Message{Step: step, Output: fmt.Appendf(nil, "%s is larger than %d bytes, and stays\n", path, guest.MaxFile)})
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return h.say(guest.Message{Step: step, File: &guest.File{Name: name, Data: b}})
	})
}
