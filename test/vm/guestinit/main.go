// Command guestinit is PID 1 of the virtual machine that package vm starts. From the initial RAM file system it finds its
// disks, makes the root file system of a lab's node, with the lab's cache beside it, its own, and runs the steps that the
// host gives it, one after the other. It is no part of what runs on real machines.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/vm/guest"
)

// stepsArg makes the program the child that runs the steps. PID 1 only waits: whoever reaps orphans with wait4 would take
// the exit statuses of os/exec's children too.
const stepsArg = "steps"

func main() {
	if len(os.Args) == 2 && os.Args[1] == stepsArg {
		if err := serve(); err != nil {
			fmt.Println("guestinit:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guestinit is PID 1 of a virtual machine, and nothing else")
		os.Exit(2)
	}
	child, err := boot()
	if err != nil {
		// What the console has is all that the host gets to see. The end of PID 1 is a kernel panic, and that the machine's.
		fmt.Println("guestinit: boot:", err)
		time.Sleep(time.Second)
		os.Exit(1)
	}
	reap(child)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// boot makes the machine ready for the steps, and starts the child that runs them. All of it is PID 1's own work: the kernel's
// threads, which start modprobe, have the root that PID 1 has (kernel: init/main.c, rest_init).
func boot() (child int, err error) {
	if err := mountKernel(); err != nil {
		return 0, err
	}
	if err := loadBootModules(); err != nil {
		return 0, err
	}
	control, err := openControl()
	if err != nil {
		return 0, err
	}
	defer control.Close()
	var s guest.Spec
	if err := json.NewDecoder(control).Decode(&s); err != nil {
		return 0, fmt.Errorf("what to do: %w", err)
	}
	if err := settle(s); err != nil {
		return 0, errors.Join(err, json.NewEncoder(control).Encode(guest.Message{Failed: err.Error()}))
	}
	return startSteps(s, control)
}

// startSteps starts the child, which reads what to do from its standard input.
func startSteps(s guest.Spec, control *os.File) (pid int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the steps: %w", err)
	}
	defer w.Close()
	cmd := exec.Command("/proc/self/exe", stepsArg)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{control}
	err = cmd.Start()
	r.Close()
	if err == nil {
		err = json.NewEncoder(w).Encode(s)
	}
	if err != nil {
		return 0, fmt.Errorf("start the steps: %w", err)
	}
	return cmd.Process.Pid, nil
}

// reap waits for whatever ends, until the child has.
func reap(child int) {
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if pid == child || errors.Is(err, unix.ECHILD) {
			return
		}
	}
}
