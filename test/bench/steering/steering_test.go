package steering

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/wire"
)

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace takes root")
	}
}

// textBench is a bench of so many bytes of text, over a link of so many bits a second, or without a limit.
func textBench(t *testing.T, rate uint64, size int) *bench {
	t.Helper()
	asRoot(t)
	b, err := newBench(t.TempDir(), rate, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	fillText(b.memory)
	return b
}

// again tries what a machine that is busy with other things may spoil.
func again(t *testing.T, try func() (ok bool, saw string)) {
	t.Helper()
	const tries = 4
	for n := 1; ; n++ {
		ok, saw := try()
		if ok {
			return
		}
		if t.Logf("try %d: %s", n, saw); n == tries {
			t.Fatal("not once in all tries")
		}
	}
}

func TestWhatIsSentOverASlowLinkIsCompressedBecauseOfIt(t *testing.T) {
	b := textBench(t, 1e8, 24<<20)
	again(t, func() (bool, string) {
		cell := Cell{Link: "100 Mbit/s", Kind: "text"}
		if err := b.cell(t.Context(), &cell, 1); err != nil {
			t.Fatal(err)
		}
		chosen := strings.Contains(cell.Why, "the link") && !strings.HasPrefix(cell.Why, "none")
		return chosen && cell.Bytes["auto"] <= 0.7, fmt.Sprintf("%s; %.2f of the memory went over the link", cell.Why, cell.Bytes["auto"])
	})
}

// busy is a receiver that takes its time.
type busy struct{ target }

func (b busy) Pages(space pagestream.Space, vaddr uint64, data []byte) error {
	time.Sleep(time.Duration(len(data)) * time.Second / 40e6)
	return b.target.Pages(space, vaddr, data)
}

func TestABusyReceiverIsNotTakenForASlowLink(t *testing.T) {
	b := textBench(t, 0, 128<<20)
	b.receive = func(t target) wire.Receiver { return busy{t} }
	again(t, func() (bool, string) {
		_, why, err := b.send(t.Context(), wire.Auto)
		if err != nil {
			t.Fatal(err)
		}
		return strings.HasPrefix(why, "none: the receiver is the bottleneck"), why
	})
}

func TestTheCostOfCopiesIsThatOfRoundsThatSendAllPages(t *testing.T) {
	asRoot(t)
	c, err := MeasureCopies(t.Context(), t.TempDir(), 1)
	// A machine that has no time for its network looks like a slow link, over which fewer go.
	if err != nil || c.Cost <= 0 || c.Sent == 0 || c.Sent > 2*(copiedRounds+1)*copiedBytes/pagestream.PageSize {
		t.Errorf("%+v, %v", c, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := MeasureCopies(ended, t.TempDir(), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("%v after it was told to stop", err)
	}
}

func TestTheBestOfACellIsTheFastestFixedCodec(t *testing.T) {
	c := Cell{Link: "1 Gbit/s", Kind: "text", Busy: true,
		Rates: map[string]float64{"auto": 200, "none": 50, "lz4": 100, "zstd": 80},
		took:  map[string][]float64{"auto": {1, 2, 4}, "lz4": {1.1, 1.9, 3}},
	}
	if c.Best() != "lz4" || c.Share() != 0.95 || c.Name() != "text, 1 Gbit/s, busy machine" {
		t.Errorf("%s: %g of %s", c.Name(), c.Share(), c.Best())
	}
}
