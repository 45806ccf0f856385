package traces

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/precopy"
)

func TestATraceIsReadAsItWasWritten(t *testing.T) {
	want := Bursts(4<<20, 2<<20, time.Second, 300*time.Millisecond, 50, 2*time.Second)
	var b bytes.Buffer
	if err := want.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Read(want.Name, bytes.NewReader(b.Bytes()))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for name, spoilt := range map[string][]byte{"nothing": nil, "another file": []byte("#!/bin/sh, and so on"), "cut off": b.Bytes()[:b.Len()/2]} {
		if _, err := Read(name, bytes.NewReader(spoilt)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	if _, err := Read("x", bytes.NewReader([]byte("not a trace at all"))); !errors.Is(err, ErrFormat) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Rewriter(1<<20, 1e6, time.Second).Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := Read("fuzz", bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, runs := range tr.Dirty {
			for _, r := range runs {
				if r.First+r.Pages > tr.Pages {
					t.Fatalf("run %+v of %d pages", r, tr.Pages)
				}
			}
		}
	})
}

// By hand: 100 pages, 10 of them written in every interval of 50 ms; at 1 MiB/s with
// nothing else to wait for, the first copy takes 0.39 s, and what is written during any
// round is those 10.
func TestReplayByHand(t *testing.T) {
	tr := &Trace{Name: "ten", Interval: 50 * time.Millisecond, Pages: 100}
	for range 20 {
		tr.Dirty = append(tr.Dirty, []Run{{First: 40, Pages: 10}})
	}
	link := Link{Rate: 1 << 20}
	still := precopy.Standstill{Freeze: time.Millisecond, Dump: time.Millisecond, Restore: time.Millisecond}
	o := Replay(tr, link, precopy.Policy{Rule: precopy.S0, DirtyLimit: 1 << 20, FirstRounds: 1, Standstill: still}, 0)
	if o.Rounds != 1 || o.Bytes > 120*pagestream.PageSize || o.Bytes < 115*pagestream.PageSize || o.Last > 10*pagestream.PageSize || o.Reason != precopy.BelowLimit {
		t.Errorf("%+v", o)
	}
	copied := time.Duration(float64(o.Last) / link.Rate * float64(time.Second))
	if scan := o.Downtime - 2*time.Millisecond - copied; scan < scanLess || scan > 2*scanLess {
		t.Errorf("downtime %v with %v of copying", o.Downtime, copied)
	}
}

func TestReplayNeverLosesAWrittenPage(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	tr := Bursts(1<<20, 1<<20, 500*time.Millisecond, 200*time.Millisecond, 30, time.Second)
	m := &memory{trace: tr, written: make([]bool, tr.Pages)}
	whole := &memory{trace: tr, written: make([]bool, tr.Pages)}
	var seen []pagestream.Range
	for m.now < 2*time.Second {
		m.run(time.Duration(rng.Int64N(int64(100 * time.Millisecond))))
		seen = pagestream.Union(seen, m.collect())
	}
	whole.run(m.now)
	if want := whole.collect(); !reflect.DeepEqual(seen, want) {
		t.Errorf("in parts %v, at once %v", seen, want)
	}
}

// What a migration sends is at most the memory in each round and in the last copy, and it
// ends in time.
func TestReplayKeepsWithinItsBounds(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 60 {
		tr := Bursts(8<<20, 1<<20+rng.Uint64N(7<<20), time.Second, time.Duration(rng.Int64N(int64(time.Second))), 1+rng.IntN(800), 3*time.Second)
		link := Link{Rate: 1e6 + 1e8*rng.Float64(), Trip: time.Millisecond}
		for _, rule := range []precopy.Rule{precopy.Default, precopy.S0} {
			policy := precopy.Policy{Rule: rule, MaxRounds: 1 + rng.IntN(40), MaxTime: time.Minute}
			o := Replay(tr, link, policy, 0)
			if o.Rounds > policy.MaxRounds || o.Bytes > uint64(o.Rounds+2)*tr.Bytes() || o.Reason == precopy.GoOn {
				t.Fatalf("%s over %.0f B/s: %+v", rule, link.Rate, o)
			}
		}
	}
}

func TestTheDefaultRuleKeepsItsPromise(t *testing.T) {
	if testing.Short() {
		t.Skip("replays all traces")
	}
	all, err := All()
	if err != nil {
		t.Fatal(err)
	}
	compared := Compare(all)
	var table bytes.Buffer
	Print(&table, compared)
	t.Log(table.String())
	v := Judge(compared)
	if v.Downtime > DowntimeShare || v.Bytes > BytesShare || v.Lower*2 < v.Traces || v.Traces != 6 {
		t.Errorf("%+v", v)
	}
}

func TestAProgramWithoutAChanceIsHardlySentMoreThanTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("replays all traces")
	}
	compared := Compare(Hopeless())
	var table bytes.Buffer
	Print(&table, compared)
	t.Log(table.String())
	if v := Judge(compared); v.Downtime > DowntimeShare || v.Bytes > BytesShare || v.Copies > HopelessCopies {
		t.Errorf("%+v", v)
	}
	for _, c := range compared {
		if c.Copies() > 2 && c.Default.TotalS > 3*(c.Default.DowntimeMS/1e3)+1 {
			t.Errorf("%s over %s takes %.1f s with a downtime of %.1f", c.Trace, c.Link, c.Default.TotalS, c.Default.DowntimeMS/1e3)
		}
	}
}
