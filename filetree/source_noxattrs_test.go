package filetree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAttributesAreLeftOutWhereNobodyWantsThem(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, []byte("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(file, "user.mark", []byte("x"), 0); err != nil {
		t.Skipf("no attributes here: %v", err)
	}
	for _, without := range []bool{false, true} {
		s, err := NewSource(dir, Plain, Options{NoXattrs: without})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		_, err = s.SyncFrozen(t.Context(), Mapped{}, func(r Record) error {
			if r.Type == TypeFile && r.Meta.Mode != 0o640 {
				t.Errorf("mode %o", r.Meta.Mode)
			}
			found = found || len(r.Meta.Xattrs) > 0
			return nil
		})
		s.Close()
		if err != nil || found == without {
			t.Errorf("without attributes is %v: some were sent: %v, %v", without, found, err)
		}
	}
}
