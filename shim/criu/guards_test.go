package criu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/images"
	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/test/criunode"
)

// guardNode is a node with a process that has guard pages.
type guardNode struct {
	*criunode.Node
	pid, vpid int
	guardless *Guardless
}

func startGuards(t *testing.T, mapped bool) *guardNode {
	t.Helper()
	if err := pagemap.ProbeGuard(); err != nil {
		t.Skip(err)
	}
	node, err := criunode.New(t.TempDir())
	if errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	n := &guardNode{Node: node}
	if n.vpid, err = n.StartGuards(t.Context(), mapped); errors.Is(err, criunode.ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	pids, err := n.PIDs(criunode.GuardsName)
	if err != nil || len(pids) != 1 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	for n.pid = range pids {
	}
	t.Setenv("PATH", n.Path("/usr/sbin")+":"+os.Getenv("PATH")) // where its CRIU is found
	n.guardless = &Guardless{Dir: n.Path("/run/copies"), Cache: n.Path(featureCache), Run: n.run,
		Showing: []string{"unshare", "-m", "sh", "-c", `mount --bind "$1" "$2" && shift 3 && exec "$@"`, "show"}}
	if err := n.guardless.Make(t.Context()); errors.Is(err, errKnowsNone) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	return n
}

// run runs a command in the node, with the files that it has there.
func (n *guardNode) run(ctx context.Context, cmd *exec.Cmd) error {
	args := slices.Clone(cmd.Args)
	for i, a := range args {
		args[i] = strings.TrimPrefix(a, strings.TrimSuffix(n.Path("/"), "/"))
	}
	inside := n.Command(ctx, args...)
	inside.Stdout = cmd.Stdout
	return inside.Run()
}

// show mounts a file of the node over another, until the function is called that is returned.
func (n *guardNode) show(t *testing.T, source, target string) (hide func()) {
	t.Helper()
	if out, err := n.Command(t.Context(), "mount", "--bind", source, target).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return func() { _ = n.Command(context.Background(), "umount", target).Run() }
}

// dump has the node's CRIU dump the process, which runs on, and returns where the images are.
func (n *guardNode) dump(t *testing.T, name string) (dir string, err error) {
	t.Helper()
	inside := "/tmp/" + name
	if err := os.Mkdir(n.Path(inside), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = n.Command(ctx, "criu", "dump", "-R", "-t", strconv.Itoa(n.vpid), "-D", inside, "-o", "dump.log").CombinedOutput()
	if err != nil {
		err = withLog(err, n.Path(inside), "dump.log")
	}
	return n.Path(inside), err
}

// view is the process' view, in the node.
func (n *guardNode) view(t *testing.T) (v *View, left bool) {
	t.Helper()
	v, err := NewView(n.Path("/tmp"), n.pid, n.vpid, true)
	if err != nil {
		t.Fatal(err)
	}
	if left, err = v.HideGuards(); err != nil {
		t.Fatal(err)
	}
	return v, left
}

// dumpShown dumps what the view shows, with the copy of CRIU's cache if that is asked for.
func (n *guardNode) dumpShown(t *testing.T, name string, v *View, guardless bool) (dir string, err error) {
	t.Helper()
	source, _ := v.Mount()
	defer n.show(t, "/tmp/"+filepath.Base(source), "/proc/"+strconv.Itoa(n.vpid)+"/smaps")()
	if guardless {
		path, ok := n.guardless.Ready()
		if !ok {
			t.Fatal("the copy that was made is not there")
		}
		defer n.show(t, "/run/copies/"+filepath.Base(path), featureCache)()
	}
	return n.dump(t, name)
}

// listed are the guard pages that the images list, and all pages.
func (n *guardNode) listed(t *testing.T, dir string) (guards, pages []pagestream.Range) {
	t.Helper()
	areas, err := images.ReadMMFile(images.MMPath(dir, uint64(n.vpid)))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range areas {
		if a.Guard() {
			guards = append(guards, pagestream.Range{Start: a.Start, Pages: (a.End - a.Start) / pagestream.PageSize})
		}
	}
	_, entries, err := images.ReadPagemapFile(images.PagemapPath(dir, uint64(n.vpid)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pages = pagestream.AppendRun(pages, pagestream.Range{Start: e.Vaddr, Pages: e.Pages})
	}
	return guards, pages
}

// complete completes images, and compares them with those that CRIU has made of the same process by itself.
func (n *guardNode) complete(t *testing.T, v *View, dir, plain string) {
	t.Helper()
	present, guards, err := v.Present()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Complete(dir, present, guards); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(images.MMPath(dir, uint64(n.vpid)))
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(images.MMPath(plain, uint64(n.vpid)))
	if err != nil {
		t.Fatal(err)
	}
	gotGuards, gotPages := n.listed(t, dir)
	wantGuards, wantPages := n.listed(t, plain)
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes of memory areas, guard pages %v, CRIU by itself: %d, %v", len(got), gotGuards, len(want), wantGuards)
	}
	if !slices.Equal(gotPages, wantPages) {
		t.Errorf("pages %v, CRIU by itself: %v", gotPages, wantPages)
	}
}

func TestGuardPagesAreListedAsCRIUListsThem(t *testing.T) {
	n := startGuards(t, false)
	plain, err := n.dump(t, "plain")
	if err != nil {
		t.Fatal(err)
	}
	if guards, _ := n.listed(t, plain); len(guards) < 10 {
		t.Fatalf("CRIU has found %v", guards)
	}
	v, left := n.view(t)
	if left {
		t.Fatal("the view leaves guard pages to CRIU")
	}
	if !slices.ContainsFunc(v.Owned(), func(r pagestream.Range) bool { return r.Pages == 16 }) {
		t.Errorf("the small area is not among %v", v.Owned())
	}
	for name, guardless := range map[string]bool{"CRIU looks for none": true, "CRIU looks for them itself": false} {
		t.Run(name, func(t *testing.T) {
			dir, err := n.dumpShown(t, filepath.Base(t.Name()), v, guardless)
			if err != nil {
				t.Fatal(err)
			}
			if guards, _ := n.listed(t, dir); guardless != (len(guards) == 0) {
				t.Fatalf("CRIU has found %v", guards)
			}
			n.complete(t, v, dir, plain)
		})
	}
}

// What CRIU sees as it is, it has to find guard pages in.
func TestGuardPagesOfAFileAreLeftToCRIU(t *testing.T) {
	n := startGuards(t, true)
	plain, err := n.dump(t, "plain")
	if err != nil {
		t.Fatal(err)
	}
	v, left := n.view(t)
	if !left {
		t.Fatal("the view leaves no guard pages to CRIU")
	}
	if _, err := n.dumpShown(t, "guardless", v, true); err == nil {
		t.Error("a CRIU that does not know of guard pages reads them: does HideGuards have to say that some are left?")
	}
	dir, err := n.dumpShown(t, "shown", v, false)
	if err != nil {
		t.Fatal(err)
	}
	n.complete(t, v, dir, plain)
}

// What the process has mapped since its view was made is looked at when it is frozen.
func TestGuardPagesThatAreNewAreHiddenToo(t *testing.T) {
	if err := pagemap.ProbeGuard(); err != nil {
		t.Skip(err)
	}
	v, err := NewView(t.TempDir(), os.Getpid(), 1, true)
	if err != nil {
		t.Fatal(err)
	}
	mapGuarded := func(then int) pagestream.Range {
		mem, err := unix.Mmap(-1, 0, 8*pagestream.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Munmap(mem) })
		// What its neighbours are not, so that it is an area of its own.
		err = errors.Join(unix.Madvise(mem, unix.MADV_DONTFORK), unix.Madvise(mem[:pagestream.PageSize], 102), unix.Mprotect(mem, then))
		if err != nil {
			t.Fatal(err)
		}
		return pagestream.Range{Start: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))), Pages: 8}
	}
	for _, c := range []struct {
		protection int
		left       bool
	}{{unix.PROT_READ | unix.PROT_WRITE, false}, {unix.PROT_READ, true}} {
		area := mapGuarded(c.protection)
		if _, err := v.Refresh(); err != nil {
			t.Fatal(err)
		}
		left, err := v.HideGuards()
		if err != nil || left != c.left {
			t.Errorf("protection %d: guard pages are left: %v, %v", c.protection, left, err)
		}
		if hidden := slices.Contains(v.Owned(), area); hidden == c.left {
			t.Errorf("protection %d: hidden is %v", c.protection, hidden)
		}
	}
}

func TestProcessesWithoutAViewTellWhetherTheyHaveGuardPages(t *testing.T) {
	n := startGuards(t, false)
	for pid, want := range map[int]bool{n.pid: true, sleeper(t): false} {
		if has, err := HasGuards(pid); err != nil || has != want {
			t.Errorf("process %d: %v, %v, want %v", pid, has, err, want)
		}
	}
}

// A CRIU that reads the copy says that it misses one feature, and has all others.
func TestTheCopyLacksOneFeature(t *testing.T) {
	n := startGuards(t, false)
	path, ok := n.guardless.Ready()
	if !ok {
		t.Fatal("the copy that was made is not there")
	}
	for _, feature := range []string{guardFeature, scanFeature, "uffd", "ns_pid", "get_rseq_conf", "openat2", "timens"} {
		with, without := n.guardless.has(t.Context(), "", feature), n.guardless.has(t.Context(), path, feature)
		if with == without != (feature != guardFeature) {
			t.Errorf("%s: %v in the cache, %v in the copy", feature, with, without)
		}
	}
	cache := n.Path(featureCache)
	content, err := os.ReadFile(cache)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)-1]++
	if err := os.WriteFile(cache, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := n.guardless.Ready(); ok {
		t.Error("the copy of another cache is taken")
	}
}
