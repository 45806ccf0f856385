package pageserver

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/test/criunode"
)

// Conversations between criu and criu's own page server are recorded with
//
//	go test -run TestRecord -record PREFIX [-criu DIR] ./pagestream/pageserver
//
// Rounds need a kernel with soft-dirty bits, as the machine of test/vm has; memory
// is written between them. DIR, if given, has another criu, usr/sbin/criu, and a
// directory lib with libraries that the machine for CRIU lacks.
var (
	recordPrefix = flag.String("record", "", "record conversations into testdata, with this prefix of their names")
	recordCRIU   = flag.String("criu", "", "directory with another criu to record")
)

// recording is a chain of rounds as testdata has it: what criu's own page server
// made of the conversations in the files beside it.
type recording struct {
	CRIU   string
	Rounds []recordedRound
}

type recordedRound struct {
	File   string
	Spaces map[string]recordedSpace // by pagestream.Space.String
}

// recordedSpace is a pagemap and the hash of its pages file.
type recordedSpace struct {
	Entries string // address-end:flags, all hexadecimal, with spaces
	SHA256  string
}

// line is a part of a conversation.
type line struct {
	fromClient bool
	data       []byte
}

// tape records a conversation.
type tape struct {
	mu    sync.Mutex // guards lines
	lines []line
}

func (t *tape) add(fromClient bool, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.lines); n > 0 && t.lines[n-1].fromClient == fromClient {
		t.lines[n-1].data = append(t.lines[n-1].data, data...)
		return
	}
	t.lines = append(t.lines, line{fromClient, slices.Clone(data)})
}

// carry copies one direction, and notes what it is before the other side sees it.
func (t *tape) carry(fromClient bool, dst, src *net.UnixConn) {
	defer dst.CloseWrite()
	buf := make([]byte, 1<<20)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			t.add(fromClient, buf[:n])
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (t *tape) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		return err
	}
	for _, l := range t.lines {
		head := binary.LittleEndian.AppendUint32([]byte{bit(l.fromClient)}, uint32(len(l.data)))
		if _, err := z.Write(append(head, l.data...)); err != nil {
			return err
		}
	}
	return errors.Join(z.Close(), f.Close())
}

func readTape(t testing.TB, path string) []line {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	r := bufio.NewReader(z)
	var lines []line
	for {
		var head [5]byte
		_, err := io.ReadFull(r, head[:])
		if err == io.EOF {
			return lines
		}
		must(t, err)
		l := line{fromClient: head[0] == 1, data: make([]byte, binary.LittleEndian.Uint32(head[1:]))}
		_, err = io.ReadFull(r, l.data)
		must(t, err)
		lines = append(lines, l)
	}
}

// recorder runs criu against criu's page server.
type recorder struct {
	node *criunode.Node
	dir  string   // seen as /shared
	criu []string // the program, with what starts it
	pid  int
}

// round runs one criu with a recorded conversation. number counts from 1; each
// has the one before as its parent.
func (r *recorder) round(t *testing.T, number int, args ...string) (*tape, map[string]recordedSpace) {
	t.Helper()
	ctx := t.Context()
	pages, own := fmt.Sprintf("pages-%d", number), fmt.Sprintf("own-%d", number)
	must(t, os.Mkdir(filepath.Join(r.dir, pages), 0o700))
	must(t, os.Mkdir(filepath.Join(r.dir, own), 0o700))
	clientNear, clientFar := socketPair(t)
	serverNear, serverFar := socketPair(t)
	run := func(fd *os.File, dir, parent string, args ...string) *exec.Cmd {
		args = append(append(slices.Clone(r.criu), args...), "-D", "/shared/"+dir, "-o", "log", "-v4", "--ps-socket", "3")
		if number > 1 {
			args = append(args, "--prev-images-dir", fmt.Sprintf("../%s-%d", parent, number-1))
		}
		cmd := r.node.Command(ctx, args...)
		cmd.ExtraFiles = []*os.File{fd}
		must(t, cmd.Start())
		must(t, fd.Close())
		return cmd
	}
	server := run(serverFar, pages, "pages", "page-server")
	client := run(clientFar, own, "own", append(args, "-t", strconv.Itoa(r.pid), "--page-server")...)
	var tape tape
	var wg sync.WaitGroup
	wg.Go(func() { tape.carry(true, serverNear, clientNear) })
	wg.Go(func() { tape.carry(false, clientNear, serverNear) })
	err := errors.Join(client.Wait(), server.Wait())
	wg.Wait()
	if err != nil {
		for _, dir := range []string{own, pages} {
			log, _ := os.ReadFile(filepath.Join(r.dir, dir, "log"))
			t.Log(string(log[max(0, len(log)-2000):]))
		}
		t.Fatal(err)
	}
	return &tape, recordedSpaces(t, filepath.Join(r.dir, pages))
}

func socketPair(t *testing.T) (*net.UnixConn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	c, err := net.FileConn(near)
	must(t, err)
	must(t, near.Close())
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn), far
}

// recordedSpaces reads what criu's page server wrote.
func recordedSpaces(t *testing.T, dir string) map[string]recordedSpace {
	t.Helper()
	spaces := make(map[string]recordedSpace)
	maps, err := images.ListPagemaps(dir)
	must(t, err)
	for _, l := range maps {
		id, entries, err := images.ReadPagemapFile(l.Path)
		must(t, err)
		pages, err := os.ReadFile(images.PagesPath(dir, id))
		must(t, err)
		space := pagestream.Space{Kind: pagestream.Process, ID: l.ID}
		if l.Shared {
			space.Kind = pagestream.Shared
		}
		sum := sha256.Sum256(pages)
		s := recordedSpace{SHA256: hex.EncodeToString(sum[:])}
		s.Entries = written(joined(entries))
		spaces[space.String()] = s
	}
	return spaces
}

func written(entries []images.Entry) string {
	var b strings.Builder
	for i, e := range entries {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%x-%x:%x", e.Vaddr, e.End(), uint32(e.Flags))
	}
	return b.String()
}

// joined makes one of adjacent entries with the same flags.
func joined(entries []images.Entry) []images.Entry {
	var all []images.Entry
	for _, e := range entries {
		if n := len(all); n > 0 && all[n-1].End() == e.Vaddr && all[n-1].Flags == e.Flags {
			all[n-1].Pages += e.Pages
			continue
		}
		all = append(all, e)
	}
	return all
}

func TestRecord(t *testing.T) {
	if *recordPrefix == "" {
		t.Skip("records only when told to by -record")
	}
	for _, mode := range []string{"dump", "splice", "read"} {
		t.Run(mode, func(t *testing.T) {
			n, dir, pid := newNode(t, 1)
			r := &recorder{node: n, dir: dir, criu: []string{"criu"}, pid: pid}
			if *recordCRIU != "" {
				must(t, os.CopyFS(filepath.Join(dir, "criu"), os.DirFS(*recordCRIU)))
				r.criu = []string{"env", "LD_LIBRARY_PATH=/shared/criu/lib", "/shared/criu/usr/sbin/criu"}
			}
			r.record(t, mode)
		})
	}
}

// record records a dump, or two pre-dumps and a dump, and writes them.
func (r *recorder) record(t *testing.T, mode string) {
	t.Helper()
	out, err := r.node.Command(t.Context(), append(slices.Clone(r.criu), "--version")...).Output()
	must(t, err)
	version, _, _ := strings.Cut(string(out), "\n")
	all := recording{CRIU: strings.TrimPrefix(version, "Version: ")}
	var rounds [][]string
	if mode != "dump" {
		if !r.node.HasSoftDirty(t.Context(), r.criu...) {
			t.Skip("the kernel has no soft-dirty bits")
		}
		pre := []string{"pre-dump", "--track-mem", "--pre-dump-mode", mode}
		rounds = append(rounds, pre, pre)
	}
	rounds = append(rounds, []string{"dump", "--track-mem"})
	if mode == "dump" {
		rounds[0] = rounds[0][:1]
	}
	for i, args := range rounds {
		if i > 0 {
			must(t, r.node.Write(t.Context(), r.pid, i))
		}
		if i == 2 {
			must(t, r.node.GiveUp(t.Context(), r.pid))
		}
		tape, spaces := r.round(t, i+1, args...)
		name := fmt.Sprintf("%s-%s-%d.gz", *recordPrefix, mode, i+1)
		must(t, tape.write(filepath.Join("testdata", name)))
		all.Rounds = append(all.Rounds, recordedRound{File: name, Spaces: spaces})
	}
	b, err := json.MarshalIndent(all, "", " ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join("testdata", fmt.Sprintf("%s-%s.json", *recordPrefix, mode)), append(b, '\n'), 0o644))
}
