package processcheck

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSharedMemoryAndHugePagesOfAStatusCount(t *testing.T) {
	got, err := sharedOf("Name:\tx\nVmRSS:\t 900 kB\nRssAnon:\t 800 kB\nRssShmem:\t    2048 kB\nHugetlbPages:\t    4096 kB\n")
	if err != nil || got != 6<<20 {
		t.Errorf("%d bytes, %v", got, err)
	}
	if _, err := sharedOf("RssShmem:\tmuch\n"); err == nil {
		t.Error("what is no number is taken for none")
	}
}

func TestSharedMemoryIsThatOfTheProcess(t *testing.T) {
	const size = 32 << 20
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b)
	got, err := SharedMemory([]Container{{Name: "test", PID: os.Getpid()}})
	if err != nil || got < size {
		t.Errorf("%d bytes, %v", got, err)
	}
}
