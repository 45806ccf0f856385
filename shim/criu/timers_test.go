package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"google.golang.org/protobuf/proto"
)

// filesOf makes an image of open files with one timer.
func filesOf(t testing.TB, ticks, value, interval uint64) []byte {
	t.Helper()
	kind := fdinfo.FdTypes_TIMERFD
	record, err := proto.Marshal(&fdinfo.FileEntry{Type: &kind, Id: proto.Uint32(3), Tfd: &timerfd.TimerfdEntry{
		Id: proto.Uint32(3), Flags: proto.Uint32(0), Clockid: proto.Uint32(1), SettimeFlags: proto.Uint32(0),
		Fown:  &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)},
		Ticks: &ticks, Vsec: proto.Uint64(0), Vnsec: &value, Isec: proto.Uint64(0), Insec: &interval,
	}})
	if err != nil {
		t.Fatal(err)
	}
	image := binary.LittleEndian.AppendUint64(nil, filesMagic)
	image = binary.LittleEndian.AppendUint32(image, uint32(len(record)))
	return append(image, record...)
}

func TestExpiredPeriodicTimersAreArmedAgain(t *testing.T) {
	for _, c := range []struct {
		name                   string
		ticks, value, interval uint64
		changed                bool
	}{
		{"periodic, expired and not read", 1, 0, 50, true},
		{"periodic, running", 0, 7, 50, false},
		{"periodic, read late and running", 3, 7, 50, false},
		{"once, expired", 1, 0, 0, false},
		{"disarmed", 0, 0, 0, false},
		{"disarmed with an interval", 0, 0, 50, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := filesOf(t, c.ticks, c.value, c.interval)
			out, changed, err := amend(in, rearm)
			if err != nil || changed != c.changed {
				t.Fatalf("changed %v, error %v", changed, err)
			}
			want := in
			if c.changed {
				want = filesOf(t, c.ticks, 1, c.interval)
			}
			if !bytes.Equal(out, want) {
				t.Errorf("%x, want %x", out, want)
			}
		})
	}
}

func FuzzRearm(f *testing.F) {
	f.Add(filesOf(f, 1, 0, 50))
	f.Add([]byte{})
	f.Add(binary.LittleEndian.AppendUint64(nil, filesMagic))
	f.Fuzz(func(t *testing.T, image []byte) {
		out, changed, err := amend(image, rearm)
		if err != nil {
			if !errors.Is(err, errFilesImage) {
				t.Fatal(err)
			}
			return
		}
		if !changed && !bytes.Equal(out, image) {
			t.Fatal("an image without such a timer changed")
		}
	})
}
