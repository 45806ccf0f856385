package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/pagestream/pageserver"
	"godwit.dev/godwit/pagestream/witness"
	"godwit.dev/godwit/shim/criu"
)

// Where it is asked for, CRIU dumps each frozen container by itself first, as runc alone would have it do: it sees all of
// the container's memory, and sends it to a page server here, which only remembers what came. The container stays
// frozen when that CRIU lets go. What it has dumped goes to the destination with the images of the dump that the move is
// made of, for comparison, and the memory areas of the two are compared here.

// witnessDump is a container's dump by CRIU itself.
type witnessDump struct {
	departure *departure
	dump      *criu.Dump
	listener  net.Listener
	recorder  *witness.Recorder
	// dir is where CRIU's other images and its logs are.
	dir string
	// dumped and areas, of each process by its pid in the container, are what it has said.
	dumped *witness.Dump
	areas  map[uint64][]images.VMA
}

// callWitnesses starts a CRIU for each container, which then waits for the freeze.
func (s *source) callWitnesses(ctx context.Context) error {
	if !s.request.GetCompareDump() {
		return nil
	}
	for _, c := range s.containers {
		w, err := callWitness(ctx, c)
		if err != nil {
			s.dismissWitnesses()
			return fmt.Errorf("compare with CRIU's own dump: container %s: %w", c.id, err)
		}
		c.witness = w
	}
	return nil
}

func callWitness(ctx context.Context, d *departure) (*witnessDump, error) {
	dir, err := workDir(d.container, "witness")
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("page server: %w", err)
	}
	w := &witnessDump{departure: d, listener: listener, recorder: witness.NewRecorder(), dir: dir}
	self, err := os.Executable()
	if err == nil {
		w.dump, err = criu.StartDump(ctx, criu.DumpConfig{
			Runtime: d.runc, ID: d.id, Config: d.criuConfig(), Images: dir, Work: dir, Showing: []string{self, helperShow},
			PageServer: listener.Addr().String(), Run: runReaped,
		})
	}
	if err == nil {
		err = w.dump.Ready(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.dismiss())
	}
	return w, nil
}

// hearWitnesses has CRIU dump all containers, which are frozen, and stay so.
func (s *source) hearWitnesses(ctx context.Context, w *frozenWindow) error {
	if !s.request.GetCompareDump() {
		return nil
	}
	work, all := errgroup.WithContext(ctx)
	for _, c := range s.containers {
		work.Go(func() error {
			if err := c.witness.hear(all); err != nil {
				return fmt.Errorf("CRIU's own dump of container %s: %w", c.id, err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	w.resp.CompareUs = w.since()
	return nil
}

// hear has CRIU dump, and let go of the container.
func (w *witnessDump) hear(ctx context.Context) error {
	var round *pageserver.Round
	work, both := errgroup.WithContext(ctx)
	work.Go(func() (err error) {
		round, err = w.serve(both)
		return err
	})
	work.Go(func() error {
		if err := w.dump.Release(); err != nil {
			return err
		}
		return w.dump.Images(both)
	})
	if err := work.Wait(); err != nil {
		return err
	}
	if err := w.note(round); err != nil {
		return err
	}
	return w.dismiss()
}

// serve takes in what CRIU sends.
func (w *witnessDump) serve(ctx context.Context) (*pageserver.Round, error) {
	defer context.AfterFunc(ctx, func() { w.listener.Close() })()
	conn, err := w.listener.Accept()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("page server: %w", err)
	}
	return pageserver.Serve(ctx, conn, pageserver.Config{
		Container: w.departure.index, Out: []pageserver.Pages{w.recorder}, Idle: -1, // the clock of the cutover ends it
	})
}

// note keeps what CRIU has said, while it still holds the processes.
func (w *witnessDump) note(round *pageserver.Round) (err error) {
	if w.dumped, err = w.recorder.Dump(); err != nil {
		return err
	}
	if got := w.dumped.Pages(); got != round.Present || round.Parent+round.Lazy > 0 {
		return fmt.Errorf("it has %d pages, %d of them came, and left %d out", round.Present, got, round.Parent+round.Lazy)
	}
	w.areas = make(map[uint64][]images.VMA)
	for space := range round.Map {
		if space.Kind != pagestream.Process {
			continue
		}
		if w.areas[space.ID], err = images.ReadMMFile(images.MMPath(w.dir, space.ID)); err != nil {
			return err
		}
	}
	return w.correct()
}

// correct puts right what CRIU has sent of its own doing, in each process.
//
// The kernel writes into the memory of threads whenever they run on another processor, CRIU's parasite in them included
// (kernel: kernel/rseq.c, rseq_update_cpu_node_id): the second dump may find that changed, so it does not count.
//
// And CRIU writes system calls to the beginning of the first area that may be executed, and puts back what was there
// (criu/parasite-syscall.c, get_exec_start; compel/src/lib/infect.c, compel_execute_syscall), once more when it has sent the
// process' pages and lets go of it. They come here by reference (kernel: net/ipv4/tcp.c, tcp_sendmsg_locked, MSG_SPLICE_PAGES): what is read
// of them is what they hold then. (A server that looked at that page again and again without taking it from its socket saw the program's
// code, then CRIU's, then the program's.) So it is read again, now that all is put back.
func (w *witnessDump) correct() error {
	sequences, err := images.ReadSequences(w.dir)
	if err != nil {
		return err
	}
	pids, err := w.departure.processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		id, err := vpid(pid)
		if err != nil {
			return err
		}
		read := func(page uint64, content []byte) error {
			missing, err := pagemap.ReadMemory(pid, []pagestream.Range{{Start: page, Pages: 1}}, content)
			if err == nil && len(missing) > 0 {
				err = errors.New("it is not there any more")
			}
			return err
		}
		if err := w.dumped.Exempt(uint64(id), sequences[uint64(id)], read); err != nil {
			return err
		}
		executable := func(v images.VMA) bool { return v.Prot&unix.PROT_EXEC != 0 }
		if i := slices.IndexFunc(w.areas[uint64(id)], executable); i >= 0 {
			if err := w.dumped.Reread(uint64(id), w.areas[uint64(id)][i].Start, read); err != nil {
				return err
			}
		}
	}
	return nil
}

// agrees compares the memory areas with those of a container's images, and adds to these what the destination is to
// compare. A nil witness has nothing to say.
func (w *witnessDump) agrees(dir string) error {
	if w == nil {
		return nil
	}
	for pid, want := range w.areas {
		got, err := images.ReadMMFile(images.MMPath(dir, pid))
		if err != nil {
			return err
		}
		got, want = joinedAreas(got), joinedAreas(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("process %d: %w: its images have %d memory areas, CRIU's own dump %d, which are not the same: %s",
				pid, witness.ErrDiffers, len(got), len(want), firstDifference(got, want))
		}
	}
	return w.dumped.Save(dir)
}

// joinedAreas makes one of areas that lie side by side, may not be read, and differ in nothing else that is dumped either. CRIU's own
// dump joins such areas in the process, for the dump after it to find: it makes them readable, reads them and takes that back
// (criu/mem.c, parasite_dump_pages_seized), and then the kernel no longer keeps apart what need not be (kernel: mm/mprotect.c, mprotect_fixup).
// Programs that fork have them: an area of which the parent has locked a part comes to the child in parts, and without the lock.
func joinedAreas(areas []images.VMA) []images.VMA {
	var all []images.VMA
	for _, a := range areas {
		if n := len(all); n > 0 && all[n-1].End == a.Start && a.Prot&unix.PROT_READ == 0 {
			as := all[n-1]
			as.Start, as.End = a.Start, a.End
			if as == a {
				all[n-1].End = a.End
				continue
			}
		}
		all = append(all, a)
	}
	return all
}

// firstDifference describes where two lists of areas part.
func firstDifference(got, want []images.VMA) string {
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	one := func(areas []images.VMA) string {
		if i == len(areas) {
			return "none"
		}
		return fmt.Sprintf("%#x-%#x, prot %#x, flags %#x, status %#x, madvise %#x", areas[i].Start, areas[i].End,
			areas[i].Prot, areas[i].Flags, areas[i].Status, areas[i].Madvise)
	}
	return one(got) + " instead of " + one(want)
}

// dismiss has CRIU let go, if it has not, and clears up. The container is then as it was, frozen or not.
func (w *witnessDump) dismiss() error {
	var err error
	if w.dump != nil {
		ctx, cancel := context.WithTimeout(context.Background(), letGoLimit)
		defer cancel()
		err = w.dump.Abort(ctx)
		w.dump = nil
	}
	w.listener.Close()
	return errors.Join(err, os.RemoveAll(w.dir))
}

// dismissWitnesses ends the dumps that are still under way.
func (s *source) dismissWitnesses() {
	for _, c := range s.containers {
		if c.witness == nil || c.witness.dump == nil {
			continue
		}
		if err := c.witness.dismiss(); err != nil {
			s.log.Warn("CRIU's own dump is not ended well", "container", c.id, "error", err)
		}
	}
}

// witnessed is how many pages CRIU has dumped by itself so far.
func (s *source) witnessed() (pages uint64) {
	for _, c := range s.containers {
		if c.witness != nil {
			pages += c.witness.recorder.Pages()
		}
	}
	return pages
}
