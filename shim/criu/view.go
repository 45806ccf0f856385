package criu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/pagestream"
	"godwit.dev/godwit/pagestream/pagemap"
)

// CRIU looks at every page of every area while the pod is frozen, 0.1 s for
// each GB, also at those that we have sent already. It passes over the pages of
// areas that smaps calls droppable (flag "dp"; CRIU 4.2, criu/mem.c,
// generate_iovs). So we show it an smaps in which the big private areas, whose
// pages are all our business anyway, bear that flag, and put the truth back
// into the images afterwards. A CRIU that does not know the flag dumps those
// areas as it always did, and the images show that there is nothing to put
// back.

// minOwned is the smallest area worth hiding from CRIU, bytes.
const minOwned = 1 << 20

// Flags of areas as CRIU's images have them (mmap(2)).
const (
	mapPrivate   = 0x02
	mapDroppable = 0x08
)

// View is the memory of one process as CRIU is shown it.
type View struct {
	// PID as the caller sees it, VPID as the process does.
	PID, VPID int
	file      string
	// maps is the text that the view was made from: if the process' maps still
	// reads the same when it is frozen, the view holds.
	maps  []byte
	owned []pagestream.Range
}

// NewView makes the view of a running process, in a file of dir.
func NewView(dir string, pid, vpid int) (*View, error) {
	v := &View{PID: pid, VPID: vpid, file: filepath.Join(dir, "smaps-"+strconv.Itoa(pid))}
	return v, v.make()
}

// Mount is the bind mount by which CRIU sees the view.
func (v *View) Mount() (source, target string) {
	return v.file, fmt.Sprintf("/proc/%d/smaps", v.PID)
}

// Refresh makes the view again if the process, which is frozen now, has changed
// its areas since. It says whether it had to.
func (v *View) Refresh() (bool, error) {
	now, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", v.PID))
	if err != nil {
		return false, fmt.Errorf("areas of process %d: %w", v.PID, err)
	}
	if bytes.Equal(now, v.maps) {
		return false, nil
	}
	return true, v.make()
}

// make reads smaps and writes it as CRIU is to see it.
func (v *View) make() error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", v.PID))
	if err != nil {
		return fmt.Errorf("areas of process %d: %w", v.PID, err)
	}
	areas, err := pagemap.ParseSmaps(nil, text)
	if err != nil {
		return fmt.Errorf("areas of process %d: %w", v.PID, err)
	}
	shown, headers, owned := show(text, areas)
	if err := os.WriteFile(v.file, shown, 0o600); err != nil {
		return fmt.Errorf("write view of process %d: %w", v.PID, err)
	}
	v.maps, v.owned = headers, owned
	return nil
}

// show marks the areas that are ours in the text of an smaps file. It returns
// the text, its lines that maps has too, and the areas.
func show(text []byte, areas []pagemap.VMA) (shown, headers []byte, owned []pagestream.Range) {
	shown = make([]byte, 0, len(text)+16*len(areas))
	headers = make([]byte, 0, 100*len(areas))
	n := -1
	for line := range bytes.Lines(text) {
		if line[0] < 'A' || line[0] > 'Z' {
			n++
			headers = append(headers, line...)
		}
		flags, isFlags := bytes.CutPrefix(line, []byte("VmFlags:"))
		if !isFlags || n < 0 || !ours(areas[n], flags) {
			shown = append(shown, line...)
			continue
		}
		owned = append(owned, pagestream.Range{Start: areas[n].Start, Pages: areas[n].Bytes() / pagestream.PageSize})
		shown = append(shown, bytes.TrimRight(line, " \n")...)
		shown = append(shown, " dp \n"...)
	}
	return shown, headers, owned
}

// ours says whether an area's pages are ours to account for: private anonymous
// memory that CRIU would call lazy (criu/include/mem.h, vma_entry_can_be_lazy)
// and that has nothing special about it.
func ours(a pagemap.VMA, flags []byte) bool {
	const special = pagemap.FlagGrowsDown | pagemap.FlagLocked | pagemap.FlagHugeTLB | pagemap.FlagDroppable |
		pagemap.FlagIO | pagemap.FlagPFNMap | pagemap.FlagShadowStack
	named := a.Path != "" && a.Path != "[heap]" && !bytes.HasPrefix([]byte(a.Path), []byte("[anon:"))
	return a.Perms == pagemap.Read|pagemap.Write && a.Inode == 0 && !named &&
		a.Bytes() >= minOwned && a.Flags&special == 0 && !guarded(flags)
}

// guarded finds the flag "gu": pages of the area are guard pages
// (MADV_GUARD_INSTALL), which CRIU handles by itself.
func guarded(flags []byte) bool {
	for f := range bytes.FieldsSeq(flags) {
		if string(f) == "gu" {
			return true
		}
	}
	return false
}

// ShowViews mounts each pair of paths, source then target, in a new mount
// namespace of the calling thread, which must be locked to its goroutine. The
// namespace ends with what the caller executes.
func ShowViews(pairs []string) error {
	if len(pairs)%2 != 0 {
		return errors.New("paths to mount come in pairs")
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	// Mounts of the node still arrive, ours do not leave.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for i := 0; i < len(pairs); i += 2 {
		err := unix.Mount(pairs[i], pairs[i+1], "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("show %s: %w", pairs[i+1], err)
		}
	}
	return nil
}
