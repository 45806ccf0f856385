package criu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"google.golang.org/protobuf/proto"
)

func TestTheImageOfCgroupsIsIdleIfAllThreadsWereInTheSame(t *testing.T) {
	image := func(sets int) []byte {
		entry := &cgroup.CgroupEntry{}
		for i := range sets {
			entry.Sets = append(entry.Sets, &cgroup.CgSetEntry{Id: proto.Uint32(uint32(i + 1))})
		}
		body, err := proto.Marshal(entry)
		if err != nil {
			t.Fatal(err)
		}
		out := binary.LittleEndian.AppendUint64(nil, cgroupMagic)
		return append(binary.LittleEndian.AppendUint32(out, uint32(len(body))), body...)
	}
	for name, c := range map[string]struct {
		image []byte
		want  []string
	}{
		"one set":         {image(1), []string{cgroupImage}},
		"two":             {image(2), nil},
		"none":            {image(0), nil},
		"cut short":       {image(1)[:13], nil},
		"something else":  {[]byte("something else"), nil},
		"nothing at all":  {[]byte{}, nil},
		"one, and a rest": {append(image(1), 0), nil},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, cgroupImage), c.image, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Idle(dir); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	if got, err := Idle(t.TempDir()); err != nil || got != nil {
		t.Errorf("without one: %v, %v", got, err)
	}
}

func FuzzAlone(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint64(nil, cgroupMagic))
	f.Fuzz(func(_ *testing.T, image []byte) { alone(image) })
}
