// Package workload has programs that are moved and know by themselves whether they came through: each checks its memory,
// its files or its sockets all the time against a model that it keeps, and answers on a TCP port when it is asked.
//
// The programs are C, in the directory programs, compiled statically when an image of them is wanted. The package knows
// nothing of migrations; what is done with the programs is the caller's.
package workload

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"godwit.dev/godwit/test/lab"
)

//go:embed programs
var programs embed.FS

// Port is where a program of an image answers by default: each has its own pod, or another port as its first argument.
const Port = "7000"

// The programs; each is in the image's root directory under its name. What it does is in a comment at the head of its source.
const (
	SharedPair = "sharedpair" // PORT MIB
	Storm      = "storm"      // PORT
	Filer      = "filer"      // PORT [ASPECTS TO LEAVE OUT]
	Ticker     = "ticker"     // PORT [FILE]
	Printer    = "printer"    // PORT
	Undumpable = "undumpable" // PORT [WHAT]
	Rewriter   = "rewriter"   // PORT MIB [RATE [WORK [same|few]]]
	Devices    = "devices"    // PORT [ASPECTS TO LEAVE OUT]
	Kinds      = "kinds"      // PORT [MIB OF HUGETLB]
)

// EnvBuilt names a directory that Build has filled before: it is copied, for there is no compiler where the image is wanted.
const EnvBuilt = "GODWIT_WORKLOADS"

// imageName is the one image that has all programs.
const imageName = "workload"

// Image gives the lab's nodes the image with all programs, and returns the reference under which pods use it. nodes limits
// who gets it; none means all.
func Image(ctx context.Context, l *lab.Lab, nodes ...string) (string, error) {
	root, err := os.MkdirTemp("", "godwit-workload-")
	if err != nil {
		return "", fmt.Errorf("workload image: %w", err)
	}
	defer os.RemoveAll(root)
	if err := Build(ctx, root); err != nil {
		return "", err
	}
	return l.AddImage(ctx, lab.ImageSpec{Name: imageName, Dir: root, Nodes: nodes})
}

// Build makes the image's root file system in dir, which exists: the programs, and the files that filer wants to find.
func Build(ctx context.Context, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("workload image: %w", err)
	}
	if built := os.Getenv(EnvBuilt); built != "" {
		if err := os.CopyFS(dir, os.DirFS(built)); err != nil {
			return fmt.Errorf("workload image: %w", err)
		}
		return nil
	}
	src, err := os.MkdirTemp("", "godwit-workload-src-")
	if err != nil {
		return fmt.Errorf("workload image: %w", err)
	}
	defer os.RemoveAll(src)
	if err := os.CopyFS(src, programs); err != nil {
		return fmt.Errorf("workload sources: %w", err)
	}
	entries, err := fs.ReadDir(programs, "programs")
	if err != nil {
		return fmt.Errorf("workload sources: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := compile(ctx, filepath.Join(src, "programs"), e.Name(), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return lowerFiles(filepath.Join(dir, "lower"))
}

// compile makes one program from all sources of its directory.
func compile(ctx context.Context, src, name, to string) error {
	sources, err := filepath.Glob(filepath.Join(src, name, "*.c"))
	if err != nil || len(sources) == 0 {
		return fmt.Errorf("workload %s: no sources", name)
	}
	args := append([]string{"-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", "-I", src, "-o", to}, sources...)
	if out, err := exec.CommandContext(ctx, "cc", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("workload %s: cc: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// lowerFiles are what filer removes, changes and gives away; it knows their content.
func lowerFiles(dir string) error {
	const files, dirs = 120, 20
	for i := range dirs {
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("workload image: %w", err)
		}
		for _, f := range []string{"a", "b", "c"} {
			if err := os.WriteFile(filepath.Join(d, f), []byte(f+"\n"), 0o644); err != nil {
				return fmt.Errorf("workload image: %w", err)
			}
		}
	}
	for i := range files {
		content := strings.Repeat(string(rune('a'+i%26)), 200+i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%03d", i)), []byte(content), 0o644); err != nil {
			return fmt.Errorf("workload image: %w", err)
		}
	}
	return nil
}
