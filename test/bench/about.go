package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/lab"
)

// machine says what this one is. What cannot be found out stays empty.
func machine() matrix.About {
	a := matrix.About{CPUs: runtime.NumCPU(), Processor: processor(), Versions: map[string]string{}}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		a.Kernel = "Linux " + string(bytes.TrimRight(name.Release[:], "\x00"))
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		a.RAMBytes = uint64(info.Totalram) * uint64(info.Unit)
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(b), &a.Load)
	}
	return a
}

// processor is the first one's name.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "processor"
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "processor"
}

// programs are those whose versions matter, with how a node says it: on the first line.
var programs = map[string]string{
	"CRIU":       "criu --version",
	"runc":       "runc --version",
	"containerd": "containerd --version",
}

// versions asks a node for them, and git for Godwit's commit, which is left out where there is no git.
func versions(ctx context.Context) (map[string]string, error) {
	l, err := lab.Up(ctx, lab.Options{Dir: labDir})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	all := map[string]string{}
	for name, command := range programs {
		out, err := l.Node("a").Exec(ctx, strings.Fields(command)...)
		if err != nil {
			return nil, err
		}
		first, _, _ := strings.Cut(string(out), "\n")
		all[name] = version(first)
	}
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		all["Godwit"] = "commit " + strings.TrimSpace(string(out))
	}
	return all, nil
}

// version is the first word with a digit and a dot in what a program says of itself.
func version(said string) string {
	for word := range strings.FieldsSeq(said) {
		if strings.ContainsAny(word, "0123456789") && strings.Contains(word, ".") && !strings.Contains(word, "/") {
			return word
		}
	}
	return said
}
