package shim

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestWhatADeadShimFrozeIsEnded(t *testing.T) {
	for version, f := range freezers(t) {
		t.Run(version, func(t *testing.T) {
			cmd, _ := busy(t, f)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }() // or it stays as a zombie, which has not ended
			bundles := t.TempDir()
			sandbox := filepath.Join(bundles, "sandbox")
			if err := os.Mkdir(sandbox, 0o700); err != nil {
				t.Fatal(err)
			}
			c := &departure{container: &container{bundle: filepath.Join(bundles, "container"), podID: "sandbox"}, freezer: f}
			if err := noteStanding([]*departure{c}); err != nil {
				t.Fatal(err)
			}
			if err := f.freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			half := filepath.Join(bundles, ".container") // removed by containerd but for what was mounted
			if err := os.MkdirAll(sourceDir(half), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := endStanding(t.Context(), sandbox); err != nil {
				t.Error(err)
			}
			if err := <-ended; err == nil {
				t.Error("it was not killed")
			}
			if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what containerd could not remove of the bundle is left: %v", err)
			}
		})
	}
}

func TestARecordOfWhatIsFrozenIsReadOrRefused(t *testing.T) {
	dir := t.TempDir()
	if err := endStanding(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(standingRecord(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := endStanding(t.Context(), dir); err == nil {
		t.Error("a record that is broken is taken for none")
	}
}
