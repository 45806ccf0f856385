package criu

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// LogError is CRIU's own account of why it failed.
type LogError struct {
	// Log is the file it comes from.
	Log string
	// Lines are its error lines, without time and source position, first first.
	Lines []string
}

func (e *LogError) Error() string {
	return fmt.Sprintf("CRIU: %s (%s)", strings.Join(e.Lines, "; "), e.Log)
}

// maxLogErrors bounds how many lines of a log an error repeats: the first ones
// say what happened, later ones are its consequences.
const maxLogErrors = 4

var errorLine = regexp.MustCompile(`Error \([^)]*\): (.*)$`)

// harmless error lines appear in logs of runs that succeed.
var harmless = regexp.MustCompile(`RLIMIT_NOFILE|Can't (stat|open) .*criu\.kdat|CLOCK_(MONOTONIC|BOOTTIME)`)

// withLog adds to err what CRIU wrote in the log of that name in dir.
func withLog(err error, dir, name string) error {
	if err == nil {
		return nil
	}
	if le := readLog(filepath.Join(dir, name)); le != nil {
		return errors.Join(err, le)
	}
	return err
}

func readLog(path string) *LogError {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	le := &LogError{Log: path}
	lines := bufio.NewScanner(f)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() && len(le.Lines) < maxLogErrors {
		m := errorLine.FindStringSubmatch(lines.Text())
		if m == nil || harmless.MatchString(m[1]) {
			continue
		}
		le.Lines = append(le.Lines, strings.TrimSpace(m[1]))
	}
	if len(le.Lines) == 0 {
		return nil
	}
	return le
}
