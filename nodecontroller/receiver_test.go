package nodecontroller

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/filetree"
	"godwit.dev/godwit/pagestream/store"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// imageBlob is an image of one file as a source sends it.
func imageBlob(t *testing.T, text string) []byte {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "core-1.img"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var blob []byte
	err := filetree.SendFlat(t.Context(), dir, nil, func(r filetree.Record) (err error) {
		blob, err = filetree.AppendRecord(blob, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

func TestImagesArriveWhereTheyAreLookedForUnlessSomeHaveCome(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs to mount")
	}
	dir := filepath.Join(t.TempDir(), "store")
	s, err := store.Create(dir, store.Options{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	r := newReceiver(s, 2, 1<<20)
	defer r.close()
	if err := r.openImages(); err != nil {
		t.Fatal(err)
	}
	early := []string{filepath.Join(dir, "early-0"), filepath.Join(dir, "early-1")}
	for _, dir := range early {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	waits, err := os.OpenRoot(early[0]) // as CRIU has it
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	channel := func(i uint16) uint32 { return shimv1.Channel(i, shimv1.TreeImages) }
	if err := r.Blob(channel(1), imageBlob(t, "too early")); err != nil {
		t.Fatal(err)
	}
	if err := r.moveImages(0, early[0]); err != nil {
		t.Fatal(err)
	}
	if err := r.moveImages(1, early[1]); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("a directory with images was replaced: %v", err)
	}
	if err := r.Blob(channel(0), imageBlob(t, "core")); err != nil {
		t.Fatal(err)
	}
	if got, err := waits.ReadFile("core-1.img"); string(got) != "core" {
		t.Errorf("where it is looked for, there is %q, %v", got, err)
	}
	for i, want := range []string{"core", "too early"} {
		if got, err := os.ReadFile(filepath.Join(s.ImagesDir(uint16(i)), "core-1.img")); string(got) != want {
			t.Errorf("of container %d there is %q, %v", i, got, err)
		}
	}
	if err := r.failure(); err != nil {
		t.Error(err)
	}
}
