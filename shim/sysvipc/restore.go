package sysvipc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"unsafe"

	ipcdesc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipcshm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// Commands of semctl and msgctl (include/uapi/linux/{ipc,sem}.h).
const (
	ipcSet  = 1
	ipcStat = 2
	setAll  = 17
)

// Restore makes the objects that a container's images list, in the IPC
// namespace with this path. An object that is there already with the same id is
// an error: the sandbox is new.
func Restore(dir, namespace string) error {
	done := make(chan error, 1)
	go func() {
		// The thread is in another namespace afterwards, and must end: it is
		// never unlocked.
		runtime.LockOSThread()
		done <- restoreIn(dir, namespace)
	}()
	return <-done
}

func restoreIn(dir, namespace string) error {
	if err := enter(namespace); err != nil {
		return err
	}
	for _, step := range []struct {
		pattern string
		restore func(*os.File) error
	}{
		{"ipcns-shm-*.img", func(f *os.File) error { return restoreSegments(f, dir) }},
		{"ipcns-sem-*.img", func(f *os.File) error { return restoreSemaphores(f) }},
		{"ipcns-msg-*.img", func(f *os.File) error { return restoreQueues(f) }},
	} {
		paths, err := filepath.Glob(filepath.Join(dir, step.pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			f, err := openImage(path)
			if err != nil {
				return err
			}
			err = step.restore(f)
			f.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
	}
	return nil
}

func enter(namespace string) error {
	f, err := os.Open(namespace)
	if err != nil {
		return fmt.Errorf("IPC namespace of the sandbox: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWIPC); err != nil {
		return fmt.Errorf("enter IPC namespace of the sandbox: %w", err)
	}
	return nil
}

// askID has the next object of a kind get an id (Documentation/admin-guide/
// sysctl/kernel.rst, msg_next_id, sem_next_id and shm_next_id).
func askID(kind string, id uint32) error {
	path := "/proc/sys/kernel/" + kind + "_next_id"
	if err := os.WriteFile(path, []byte(strconv.Itoa(int(id))), 0); err != nil {
		return fmt.Errorf("ask for the id of an IPC object: %w", err)
	}
	return nil
}

// made checks what a *get call returned.
func made(id, want uintptr, errno unix.Errno) error {
	switch {
	case errno != 0:
		return errno
	case id != want:
		return fmt.Errorf("got id %d", id)
	}
	return nil
}

// restoreSegments makes shared memory segments and fills them.
func restoreSegments(in io.Reader, dir string) error {
	segments, err := readSegments(in)
	if err != nil {
		return err
	}
	for _, s := range segments {
		if err := restoreSegment(s, dir); err != nil {
			return fmt.Errorf("shared memory segment %d: %w", s.GetDesc().GetId(), err)
		}
	}
	return nil
}

func restoreSegment(s *ipcshm.IpcShmEntry, dir string) error {
	d := s.GetDesc()
	if err := askID("shm", d.GetId()); err != nil {
		return err
	}
	flags := int(d.GetMode()&0o777) | unix.IPC_CREAT | unix.IPC_EXCL | int(s.GetHugetlbFlag())
	id, err := unix.SysvShmGet(int(int32(d.GetKey())), int(s.GetSize()), flags)
	if err != nil {
		return err
	}
	if id != int(d.GetId()) {
		return fmt.Errorf("got id %d", id)
	}
	var ds unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &ds); err != nil {
		return err
	}
	ds.Perm.Uid, ds.Perm.Gid = d.GetUid(), d.GetGid()
	if _, err := unix.SysvShmCtl(id, unix.IPC_SET, &ds); err != nil {
		return err
	}
	return fillSegment(id, dir)
}

// fillSegment copies the pages that the dump has of a segment.
func fillSegment(id int, dir string) error {
	pagesID, entries, err := images.ReadPagemapFile(images.SharedPagemapPath(dir, uint64(id)))
	if errors.Is(err, os.ErrNotExist) {
		return nil // nothing was ever written to it
	}
	if err != nil {
		return err
	}
	memory, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return err
	}
	defer unix.SysvShmDetach(memory)
	pages, err := openImage(images.PagesPath(dir, pagesID))
	if err != nil || pages == nil {
		return errors.Join(err, fmt.Errorf("%w: no pages", ErrImage))
	}
	defer pages.Close()
	for _, e := range entries {
		if !e.Present() {
			continue
		}
		if e.End() > uint64(len(memory)+pagestream.PageSize-1) {
			return fmt.Errorf("%w: page over the end", ErrImage)
		}
		if _, err := io.ReadFull(pages, memory[e.Vaddr:min(e.End(), uint64(len(memory)))]); err != nil {
			return fmt.Errorf("%w: pages are cut short", ErrImage)
		}
	}
	return nil
}

// ipcDS is the beginning of the kernel's struct semid64_ds and msqid64_ds,
// with room for the rest (include/uapi/asm-generic/{ipcbuf,sembuf,msgbuf}.h).
type ipcDS struct {
	key                  int32
	uid, gid, cuid, cgid uint32
	mode                 uint32
	rest                 [12]uint64
}

// setOwner gives a semaphore set or a queue its owner.
func setOwner(ctl uintptr, id uintptr, d *ipcdesc.IpcDescEntry) error {
	var ds ipcDS
	call := func(cmd uintptr) unix.Errno {
		var errno unix.Errno
		if ctl == unix.SYS_SEMCTL {
			_, _, errno = unix.Syscall6(ctl, id, 0, cmd, uintptr(unsafe.Pointer(&ds)), 0, 0)
		} else {
			_, _, errno = unix.Syscall(ctl, id, cmd, uintptr(unsafe.Pointer(&ds)))
		}
		return errno
	}
	if errno := call(ipcStat); errno != 0 {
		return fmt.Errorf("read: %w", errno)
	}
	ds.uid, ds.gid = d.GetUid(), d.GetGid()
	if errno := call(ipcSet); errno != 0 {
		return fmt.Errorf("set owner: %w", errno)
	}
	return nil
}

// restoreSemaphores makes semaphore sets with their values.
func restoreSemaphores(in io.Reader) error {
	sets, err := readSemaphores(in)
	if err != nil {
		return err
	}
	for _, s := range sets {
		if err := restoreSet(s); err != nil {
			return fmt.Errorf("semaphore set %d: %w", s.GetDesc().GetId(), err)
		}
	}
	return nil
}

func restoreSet(s semaphores) error {
	d := s.GetDesc()
	if err := askID("sem", d.GetId()); err != nil {
		return err
	}
	flags := uintptr(d.GetMode()&0o777) | unix.IPC_CREAT | unix.IPC_EXCL
	id, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(d.GetKey()), uintptr(s.GetNsems()), flags)
	if err := made(id, uintptr(d.GetId()), errno); err != nil {
		return err
	}
	if err := setOwner(unix.SYS_SEMCTL, id, d); err != nil {
		return err
	}
	values := uintptr(unsafe.Pointer(unsafe.SliceData(s.values)))
	_, _, errno = unix.Syscall6(unix.SYS_SEMCTL, id, 0, setAll, values, 0, 0)
	runtime.KeepAlive(s.values)
	if errno != 0 {
		return fmt.Errorf("set values: %w", errno)
	}
	return nil
}

// restoreQueues makes message queues with what waited in them.
func restoreQueues(in io.Reader) error {
	queues, err := readQueues(in)
	if err != nil {
		return err
	}
	for _, q := range queues {
		if err := restoreQueue(q); err != nil {
			return fmt.Errorf("message queue %d: %w", q.GetDesc().GetId(), err)
		}
	}
	return nil
}

func restoreQueue(q queue) error {
	d := q.GetDesc()
	if err := askID("msg", d.GetId()); err != nil {
		return err
	}
	flags := uintptr(d.GetMode()&0o777) | unix.IPC_CREAT | unix.IPC_EXCL
	id, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(d.GetKey()), flags, 0)
	if err := made(id, uintptr(d.GetId()), errno); err != nil {
		return err
	}
	for _, m := range q.messages {
		buf := make([]byte, 8+len(m.text))
		binary.NativeEndian.PutUint64(buf, m.kind)
		copy(buf[8:], m.text)
		_, _, errno := unix.Syscall6(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(m.text)), unix.IPC_NOWAIT, 0, 0)
		runtime.KeepAlive(buf)
		if errno != 0 {
			return fmt.Errorf("put back a message: %w", errno)
		}
	}
	return setOwner(unix.SYS_MSGCTL, id, d)
}
