package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/stats"
	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pageserver"
	"godwit.dev/godwit/test/criunode"
)

const (
	// dumpedMegabytes is what each of two processes has, as much of it shared
	// copy-on-write as makes no difference to CRIU.
	dumpedMegabytes = 512
	// dumps of each kind; the first of each is not counted.
	dumps = 8
)

// absorb is how fast one page server takes a dump, bytes of pages a second.
type absorb struct {
	frozen  float64 // over the time that the processes are frozen
	writing float64 // over the time that CRIU writes pages
}

// pageServer has one criu dump 1 GiB to a page server again and again: to CRIU's
// own and to ours, in turns. Both write the pages to files on the node's tmpfs,
// and the dump ends when they are there; what a store costs is not the page
// server's. All goes through pairs of sockets: over TCP both wait for a corked
// last message.
func (b *bench) pageServer(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "godwit-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	n, err := criunode.New(dir)
	if err != nil {
		return err
	}
	defer n.Close()
	pid, err := n.StartMemory(ctx, dumpedMegabytes)
	if err != nil {
		return err
	}
	d := dumping{node: n, dir: dir, pid: pid}
	var ours, theirs []absorb
	for i := range dumps + 1 {
		their, err := d.toCRIU(ctx)
		if err != nil {
			return err
		}
		our, err := d.toUs(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("  page server: ours %.2f GB/s (%.2f while writing), criu's %.2f GB/s (%.2f)\n",
			our.frozen/1e9, our.writing/1e9, their.frozen/1e9, their.writing/1e9)
		if i > 0 {
			ours, theirs = append(ours, our), append(theirs, their)
		}
	}
	b.absorbed = ratio(ours, theirs, func(a absorb) float64 { return a.frozen })
	fmt.Printf("  page server: ours is %.2f times as fast as criu's, %.2f while writing\n",
		b.absorbed, ratio(ours, theirs, func(a absorb) float64 { return a.writing }))
	return nil
}

// ratio is that of the medians of what value takes out.
func ratio(a, b []absorb, value func(absorb) float64) float64 {
	var x, y []float64
	for i := range a {
		x, y = append(x, value(a[i])), append(y, value(b[i]))
	}
	return median(x) / median(y)
}

// dumping has a program dumped again and again.
type dumping struct {
	node *criunode.Node
	dir  string // seen as /shared in the node
	pid  int
}

// toCRIU dumps to CRIU's own page server. Its images are on the node's tmpfs.
func (d dumping) toCRIU(ctx context.Context) (absorb, error) {
	const pages = "/tmp/pages"
	if err := os.Mkdir(d.node.Path(pages), 0o700); err != nil {
		return absorb{}, err
	}
	defer os.RemoveAll(d.node.Path(pages))
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return absorb{}, err
	}
	near, far := os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "server")
	defer near.Close()
	server := d.node.Command(ctx, "criu", "page-server", "-D", pages, "--ps-socket", "3", "-o", "server.log")
	server.ExtraFiles = []*os.File{far}
	err = server.Start()
	far.Close()
	if err != nil {
		return absorb{}, err
	}
	a, err := d.dump(ctx, near)
	if failed := server.Wait(); failed != nil {
		err = errors.Join(err, fmt.Errorf("criu page-server: %w", failed))
	}
	return a, err
}

// toUs dumps to a page server of this process.
func (d dumping) toUs(ctx context.Context) (absorb, error) {
	var out []pageserver.Pages
	for i := range 2 {
		path := d.node.Path(fmt.Sprintf("/tmp/pages-%d", i))
		f, err := os.Create(path)
		if err != nil {
			return absorb{}, err
		}
		defer os.Remove(path)
		defer f.Close()
		out = append(out, intoFile{f})
	}
	conn, client, err := pageserver.StreamPair()
	if err != nil {
		return absorb{}, err
	}
	served := make(chan error, 1)
	go func() {
		_, err := pageserver.Serve(ctx, conn, pageserver.Config{
			Out:   out,
			Flush: func(context.Context) error { return nil }, // files need none, but all must be in them
		})
		served <- err
	}()
	a, err := d.dump(ctx, client)
	return a, errors.Join(err, <-served)
}

// intoFile is a stream that ends in a file.
type intoFile struct{ *os.File }

func (f intoFile) Runs(_ pagestream.Space, _ []pagestream.Range, data []byte) error {
	_, err := f.Write(data)
	return err
}

// dump dumps the program, lets it run on, and closes client.
func (d dumping) dump(ctx context.Context, client *os.File) (absorb, error) {
	defer client.Close()
	images, err := os.MkdirTemp(d.dir, "images")
	if err != nil {
		return absorb{}, err
	}
	defer os.RemoveAll(images)
	cmd := d.node.Command(ctx, "criu", "dump", "-t", strconv.Itoa(d.pid), "-D", "/shared/"+filepath.Base(images),
		"-o", "dump.log", "-v1", "-R", "--page-server", "--ps-socket", "3")
	cmd.ExtraFiles = []*os.File{client}
	err = cmd.Start()
	client.Close()
	if err != nil {
		return absorb{}, err
	}
	if err := cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(images, "dump.log"))
		return absorb{}, fmt.Errorf("criu dump: %w: %s", err, log)
	}
	f, err := os.Open(images)
	if err != nil {
		return absorb{}, err
	}
	defer f.Close()
	st, err := stats.CriuGetDumpStats(f)
	if err != nil {
		return absorb{}, fmt.Errorf("statistics of the dump: %w", err)
	}
	bytes := float64((st.GetPagesWritten() + st.GetShpagesWritten()) * pagestream.PageSize)
	return absorb{
		frozen:  bytes / (time.Duration(st.GetFrozenTime()) * time.Microsecond).Seconds(),
		writing: bytes / (time.Duration(st.GetMemwriteTime()) * time.Microsecond).Seconds(),
	}, nil
}
