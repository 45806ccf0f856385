//go:build !amd64

package track

import (
	"context"
	"fmt"
	"runtime"
)

var restartable map[int]bool

func indexSyscall([]byte) int { return 0 }

func injectThread(context.Context, int, int, int, uint64) (Injection, bool, error) {
	return Injection{}, true, fmt.Errorf("%w: creating a userfaultfd inside a process is not written for %s", ErrUnsupported, runtime.GOARCH)
}
