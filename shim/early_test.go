package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

const testDescriptors = `["/dev/null","pipe:[1]","pipe:[2]"]`

// testEarly makes images to come, and a directory in which they have come.
func testEarly(t *testing.T) (e *earlyImages, images string) {
	t.Helper()
	store := t.TempDir()
	e, err := makeEarlyImages(&shimv1.RestoreRequest{StoreDir: store, Index: 1}, testDescriptors)
	if err != nil {
		t.Fatal(err)
	}
	images = filepath.Join(store, "images")
	if err := os.Mkdir(images, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{descriptorsFile: testDescriptors, inventoryImage: "inventory", "core-1.img": "core"} {
		if err := os.WriteFile(filepath.Join(images, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return e, images
}

func TestWhoReadsTheInventoryGetsItWhenTheOtherImagesAreThere(t *testing.T) {
	for name, place := range map[string]func(t *testing.T, e *earlyImages, images string) (inPlace bool){
		"linked": func(*testing.T, *earlyImages, string) bool { return false },
		"linked into an empty directory": func(t *testing.T, e *earlyImages, _ string) bool {
			if err := e.empty(); err != nil {
				t.Error(err)
			}
			return false
		},
		"arrived where they are looked for": func(t *testing.T, e *earlyImages, images string) bool {
			err := errors.Join(e.empty(), os.Rename(images, images+"-arriving"), os.Rename(e.dir, images))
			for _, name := range []string{descriptorsFile, inventoryImage, "core-1.img"} {
				err = errors.Join(err, os.Rename(filepath.Join(images+"-arriving", name), filepath.Join(images, name)))
			}
			if err != nil {
				t.Error(err)
			}
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, images := testEarly(t)
			dir, err := os.OpenRoot(e.dir) // as runc hands it to CRIU
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			read := make(chan string, 2)
			go func() { // as CRIU does
				b, err := dir.ReadFile(inventoryImage)
				read <- string(b)
				if err == nil {
					b, err = dir.ReadFile("core-1.img")
				}
				if err != nil {
					b = []byte(err.Error())
				}
				read <- string(b)
			}()
			e.await(t.Context())
			if err := e.feed(images, place(t, e, images)); err != nil {
				t.Fatal(err)
			}
			if got := <-read; got != "inventory" {
				t.Errorf("the inventory is %q", got)
			}
			if got := <-read; got != "core" {
				t.Errorf("the image beside it is %q", got)
			}
		})
	}
}

func TestNobodyIsFedWhoNeverAsked(t *testing.T) {
	e, images := testEarly(t)
	over, end := context.WithCancel(t.Context())
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		e.await(over)
	}()
	end()
	<-returned
	if err := e.feed(images, false); err == nil {
		t.Error("images were given to nobody")
	}
}

func TestImagesOfAnotherContainerAreNotFed(t *testing.T) {
	for name, change := range map[string]func(images string) error{
		"other standard files": func(images string) error {
			return os.WriteFile(filepath.Join(images, descriptorsFile), []byte(`["/dev/null","/dev/null","pipe:[2]"]`), 0o600)
		},
		"no inventory": func(images string) error { return os.Remove(filepath.Join(images, inventoryImage)) },
		"an inventory that does not fit": func(images string) error {
			return os.WriteFile(filepath.Join(images, inventoryImage), make([]byte, maxInventory+1), 0o600)
		},
	} {
		e, images := testEarly(t)
		if err := change(images); err != nil {
			t.Fatal(err)
		}
		read := make(chan int, 1)
		go func() {
			b, _ := os.ReadFile(filepath.Join(e.dir, inventoryImage))
			read <- len(b)
		}()
		e.await(t.Context())
		if err := e.feed(images, false); err == nil {
			t.Errorf("%s: the images were given to CRIU", name)
		}
		e.close()
		if n := <-read; n != 0 {
			t.Errorf("%s: CRIU got %d bytes of an inventory", name, n)
		}
	}
}

func TestAPeersWordOnStandardFilesIsChecked(t *testing.T) {
	for text, well := range map[string]bool{
		testDescriptors: true, ``: false, `[]`: false, `["a","b"]`: false, `["a","b","c","d"]`: false, `{}`: false,
		`["` + strings.Repeat("a", maxDescriptors) + `","b","c"]`: false,
	} {
		if err := checkDescriptors(text); (err == nil) != well {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func TestARestoreThatWasStartedAheadLeavesItsContainerParked(t *testing.T) {
	for s, want := range map[arrivalState]arrivalState{
		arrivalReady: arrivalParked, arrivalRestoring: arrivalParked, arrivalHeld: arrivalEnded, arrivalCommitted: arrivalRepeating,
	} {
		d, a := withAttempt(t, s)
		a.attempt.early = &earlyImages{}
		d.takeEnd(a, errors.New("broken"))
		if a.state != want {
			t.Errorf("a container that was %v is %v, want %v", s, a.state, want)
		}
		if attempt, waits := d.takeEarly(a); attempt == nil || waits {
			t.Error("a restore that has ended is given images")
		}
	}
}

func TestAnAbortEndsAContainerThatIsReady(t *testing.T) {
	d, a := withAttempt(t, arrivalReady)
	a.attempt.early = &earlyImages{}
	d.mu.Lock()
	d.aborted = true
	d.mu.Unlock()
	if _, end := d.takeEnd(a, errors.New("killed")); end != attemptParked || a.state == arrivalParked {
		t.Errorf("%v, the container is %v", end, a.state)
	}
	if _, waits := d.takeEarly(a); waits {
		t.Error("an aborted migration is given images")
	}
}
