package processcheck

import (
	"fmt"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

// anewPath is what is in a volume that kubelet makes for each pod, of a ConfigMap or Secret for example: in a directory that bears
// the time of its making, to which links lead (kubernetes: pkg/volume/util/atomic_writer.go, newTimestampDir).
var anewPath = regexp.MustCompile(`/\.\.\d{4}(_\d\d){5}\.\d+/`)

func isAnew(path string) bool { return anewPath.MatchString(path) }

func (c *scope) anew(what string) obstacle.Finding {
	return c.refuse(what+", of a volume that the destination's pod has anew, in a directory of another name", "have it read such files and close them")
}

// judgeVolume is about an open file of a volume that is not copied.
func (c *scope) judgeVolume(f *File) []obstacle.Finding {
	if f.Type != unix.S_IFREG && f.Type != unix.S_IFDIR {
		return nil
	}
	if isAnew(f.Link + "/") {
		return []obstacle.Finding{c.anew(fmt.Sprintf("has %s open (descriptor %d)", f.Link, f.FD))}
	}
	return c.judgeLock(f)
}

// judgeLock is criu/file-lock.c, restore_file_lock: it waits for the lock, which the
// frozen source has.
func (c *scope) judgeLock(f *File) []obstacle.Finding {
	if f.Locked && !c.snapshot.SourceFirst && slices.Contains(c.container.Storage, c.process.Mounts[f.Mount].Point) {
		return []obstacle.Finding{c.refuse(fmt.Sprintf("holds a lock of %s (descriptor %d), which both nodes see, so that the destination could not have it before the source is gone", f.Link, f.FD),
			"release it for the move")}
	}
	return nil
}
