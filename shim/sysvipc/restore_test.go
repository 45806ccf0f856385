package sysvipc

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	ipcdesc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipcmsg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	ipcsem "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-sem"
	ipcshm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
)

// imageOf encodes an image: records, and payloads where a part is bytes.
func imageOf(t testing.TB, parts ...any) []byte {
	t.Helper()
	out := binary.LittleEndian.AppendUint32(nil, magicCommon)
	out = binary.LittleEndian.AppendUint32(out, 1)
	for _, p := range parts {
		switch p := p.(type) {
		case proto.Message:
			b, err := proto.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), b...)
		case []byte:
			out = append(out, p...)
			out = append(out, make([]byte, (8-len(p)%8)%8)...)
		}
	}
	return out
}

func desc(id, key uint32) *ipcdesc.IpcDescEntry {
	zero := uint32(0)
	owner, mode := uint32(77), uint32(0o640)
	return &ipcdesc.IpcDescEntry{Key: &key, Uid: &owner, Gid: &owner, Cuid: &zero, Cgid: &zero, Mode: &mode, Id: &id}
}

// newNamespace makes an IPC namespace that lives as long as the test.
func newNamespace(t *testing.T) string {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("needs root to make an IPC namespace")
	}
	cmd := exec.Command("unshare", "--ipc", "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Skipf("no unshare: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	path := filepath.Join("/proc", itoa(cmd.Process.Pid), "ns/ipc")
	own, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		t.Fatal(err)
	}
	for {
		ns, err := os.Readlink(path)
		if err != nil {
			t.Skipf("no IPC namespace: %v", err)
		}
		if ns != own {
			return path
		}
		runtime.Gosched()
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func TestRestoreMakesObjectsWithIDsOwnersAndContent(t *testing.T) {
	namespace := newNamespace(t)
	dir := t.TempDir()
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	size, yes, sems, qbytes, qnum := uint64(3*pagestream.PageSize), true, uint32(3), uint32(16384), uint32(1)
	kind, length := uint64(9), uint32(5)
	write("ipcns-shm-10.img", imageOf(t, &ipcshm.IpcShmEntry{Desc: desc(5, 0xabc), Size: &size, InPagemaps: &yes}))
	write("ipcns-sem-10.img", imageOf(t,
		&ipcsem.IpcSemEntry{Desc: desc(7, 0xabd), Nsems: &sems}, []byte{1, 0, 2, 0, 3, 0}))
	write("ipcns-msg-10.img", imageOf(t,
		&ipcmsg.IpcMsgEntry{Desc: desc(9, 0xabe), Qbytes: &qbytes, Qnum: &qnum},
		&ipcmsg.IpcMsg{Mtype: &kind, Msize: &length}, []byte("hello")))
	var pagemap bytes.Buffer
	if err := images.WritePagemap(&pagemap, 4, []images.Entry{{Vaddr: 0x1000, Pages: 2, Flags: images.Present}}); err != nil {
		t.Fatal(err)
	}
	write("pagemap-shmem-5.img", pagemap.Bytes())
	content := bytes.Repeat([]byte("godwit. "), 2*pagestream.PageSize/8)
	write("pages-4.img", content)

	if err := Restore(dir, namespace); err != nil {
		t.Fatal(err)
	}
	inNamespace(t, namespace, func() {
		checkSegment(t, content)
		checkObjects(t)
	})
	if err := Restore(dir, namespace); err == nil {
		t.Error("restored over objects that were there")
	}
}

// inNamespace runs f on a thread in the namespace, which then ends.
func inNamespace(t *testing.T, namespace string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := enter(namespace); err != nil {
			t.Error(err)
			return
		}
		f()
	}()
	<-done
}

func checkSegment(t *testing.T, content []byte) {
	id, err := unix.SysvShmGet(0xabc, 0, 0)
	if err != nil || id != 5 {
		t.Errorf("segment has id %d: %v", id, err)
		return
	}
	memory, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.SysvShmDetach(memory)
	if !bytes.Equal(memory[0x1000:], content) || !bytes.Equal(memory[:0x1000], make([]byte, 0x1000)) {
		t.Error("segment has other content")
	}
}

func checkObjects(t *testing.T) {
	const getAll = 13
	sem, _, errno := unix.Syscall(unix.SYS_SEMGET, 0xabd, 0, 0)
	if errno != 0 || sem != 7 {
		t.Errorf("semaphore set has id %d: %v", sem, errno)
	}
	var values [3]uint16
	unix.Syscall6(unix.SYS_SEMCTL, sem, 0, getAll, uintptr(unsafe.Pointer(&values)), 0, 0)
	if values != [3]uint16{1, 2, 3} {
		t.Errorf("semaphores are %v", values)
	}
	var ds ipcDS
	unix.Syscall6(unix.SYS_SEMCTL, sem, 0, ipcStat, uintptr(unsafe.Pointer(&ds)), 0, 0)
	if ds.uid != 77 || ds.gid != 77 || ds.mode != 0o640 {
		t.Errorf("semaphore set belongs to %d:%d, mode %o", ds.uid, ds.gid, ds.mode)
	}
	msg, _, errno := unix.Syscall(unix.SYS_MSGGET, 0xabe, 0, 0)
	if errno != 0 || msg != 9 {
		t.Errorf("queue has id %d: %v", msg, errno)
	}
	var buf [64]byte
	n, _, errno := unix.Syscall6(unix.SYS_MSGRCV, msg, uintptr(unsafe.Pointer(&buf)), 32, 0, unix.IPC_NOWAIT, 0)
	if errno != 0 || string(buf[8:8+n]) != "hello" || binary.NativeEndian.Uint64(buf[:]) != 9 {
		t.Errorf("message of %d bytes, %q: %v", n, buf[:], errno)
	}
}

func TestMalformedImagesAreOneError(t *testing.T) {
	nsems := uint32(1 << 30)
	for name, image := range map[string][]byte{
		"empty":       nil,
		"magic":       make([]byte, 16),
		"cut short":   imageOf(t, &ipcsem.IpcSemEntry{Desc: desc(1, 2), Nsems: new(uint32)})[:14],
		"huge set":    imageOf(t, &ipcsem.IpcSemEntry{Desc: desc(1, 2), Nsems: &nsems}),
		"huge record": append(imageOf(t), 0xff, 0xff, 0xff, 0xff),
	} {
		if _, err := readSemaphores(bytes.NewReader(image)); err == nil || !strings.Contains(err.Error(), ErrImage.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzImages(f *testing.F) {
	size, yes, n := uint64(4096), true, uint32(1)
	f.Add(imageOf(f, &ipcshm.IpcShmEntry{Desc: desc(5, 1), Size: &size, InPagemaps: &yes}))
	f.Add(imageOf(f, &ipcsem.IpcSemEntry{Desc: desc(5, 1), Nsems: &n}, []byte{1, 0}))
	f.Add(imageOf(f, &ipcmsg.IpcMsgEntry{Desc: desc(5, 1), Qbytes: &n, Qnum: &n}, &ipcmsg.IpcMsg{Mtype: &size, Msize: &n}, []byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		readSegments(bytes.NewReader(b))
		readSemaphores(bytes.NewReader(b))
		readQueues(bytes.NewReader(b))
	})
}
