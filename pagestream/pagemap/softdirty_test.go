package pagemap

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
)

func TestSoftDirtyProbeAgreesWithTheKernelsConfiguration(t *testing.T) {
	f, err := os.Open("/proc/config.gz")
	if err != nil {
		t.Skip("the kernel does not tell its configuration")
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	has := strings.Contains(string(config), "\nCONFIG_MEM_SOFT_DIRTY=y\n")
	err = ProbeSoftDirty()
	if (err == nil) != has || err != nil && !errors.Is(err, ErrNoSoftDirty) {
		t.Errorf("configured %v, probed %v", has, err)
	}
}
