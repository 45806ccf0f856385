package images

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// nested is a message in a field of another.
func nested(num protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
}

// core is a thread's image, with an area of restartable sequences if it has a size.
func core(addr, size uint64) []byte {
	thread := message(1, 0x1000) // futex_rla
	if size > 0 {
		thread = append(thread, nested(15, message(1, addr, 2, size))...)
	}
	return append(message(1, 1), nested(5, thread)...)
}

// writeProcesses writes the images of process 1 with threads 1 and 3, process 2, and process 4, which has ended.
func writeProcesses(t *testing.T, third []byte) string {
	t.Helper()
	dir := t.TempDir()
	process := func(pid uint64, threads ...uint64) []byte {
		b := appendVarint(nil, 1, pid)
		for _, tid := range threads {
			b = appendVarint(b, 5, tid)
		}
		return b
	}
	for name, content := range map[string][]byte{
		"pstree.img": image(magicTree, process(1, 1, 3), process(2, 2), process(4, 3<<30)),
		"mm-1.img":   nil,
		"mm-2.img":   nil,
		"core-1.img": image(magicCore, core(0x7000_0020, 32)),
		"core-2.img": image(magicCore, core(0, 0)),
		"core-3.img": third,
		"core-4.img": image(magicCore, core(0, 0)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadSequencesFindsThoseOfAllThreads(t *testing.T) {
	dir := writeProcesses(t, image(magicCore, core(0x7100_0040, 28)))
	got, err := ReadSequences(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint64][]Sequence{1: {{0x7000_0020, 32}, {0x7100_0040, 28}}}
	if !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestReadSequencesRejects(t *testing.T) {
	for name, third := range map[string][]byte{
		"another image":           image(magicMM, core(0, 0)),
		"no record":               image(magicCore),
		"an area that is too big": image(magicCore, core(0x1000, 1<<20)),
		"one that wraps around":   image(magicCore, core(1<<64-8, 32)),
		"half a record":           image(magicCore, core(0x1000, 32))[:20],
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadSequences(writeProcesses(t, third)); !errors.Is(err, ErrFormat) {
				t.Errorf("got %v, want %v", err, ErrFormat)
			}
		})
	}
}

func FuzzReadSequences(f *testing.F) {
	f.Add(message(1, 3, 5, 3), core(0x1000, 32))
	f.Fuzz(func(t *testing.T, tree, thread []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{"pstree.img": image(magicTree, tree), "core-3.img": image(magicCore, thread), "mm-3.img": nil} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		found, err := ReadSequences(dir)
		if err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v does not wrap %v", err, ErrFormat)
		}
		for _, all := range found {
			for _, s := range all {
				if s.Size > maxSequence || s.Addr+s.Size < s.Addr {
					t.Errorf("area %+v", s)
				}
			}
		}
	})
}
