package track

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const helperEnv = "GODWIT_TRACK_TEST_HELPER"

func serveAsHelper() {}

// sigqueue sends a queued signal with a value, as sigqueue(3).
func sigqueue(pid int, sig unix.Signal, value int) error {
	info := struct {
		signo, errno, code, _ int32
		pid, uid              int32
		value                 int64
		_                     [12]int64
	}{signo: int32(sig), code: -1 /* SI_QUEUE */, pid: int32(unix.Getpid()), value: int64(value)}
	_, _, errno := unix.Syscall(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(sig), uintptr(unsafe.Pointer(&info)))
	runtime.KeepAlive(&info)
	if errno != 0 {
		return errno
	}
	return nil
}
