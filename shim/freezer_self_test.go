package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFreezerThatHoldsTheShimItselfIsRefused(t *testing.T) {
	own, err := openFreezer(os.Getpid())
	if err != nil {
		t.Skip(err)
	}
	for dir, held := range map[string]bool{
		own.dir:                       true,
		filepath.Dir(own.dir):         true,
		filepath.Join(own.dir, "pod"): false,
		own.dir + "-other":            false,
	} {
		err := (&freezer{dir: dir, unified: own.unified}).sparesSelf()
		if errors.Is(err, errFreezesShim) != held {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
