package nodecontroller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// admitDir is where the shim looks whether a migration that an annotation names
// is expected. It is in /run: after a reboot nothing is.
const admitDir = shimv1.AdmissionDir

// migrationID is what a migration may be called: it becomes a file name here
// and an annotation, and comes from a peer.
var migrationID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// record is what a node must not forget of its part in a migration. It is
// written before the part begins, and removed when nothing of it is left.
type record struct {
	Migration string    `json:"migration"`
	Stage     stage     `json:"stage"`
	Pod       string    `json:"pod"`  // namespace/name
	Peer      string    `json:"peer"` // the other node's name
	Address   string    `json:"address,omitempty"`
	Started   time.Time `json:"started"`
	// Sandbox and Containers are the pod's on this node.
	Sandbox    string   `json:"sandbox,omitempty"`
	Containers []string `json:"containers,omitempty"`
	// Images are the ids of those that this node got for this migration.
	Images []string `json:"images,omitempty"`
	// Description is the pod's, at the destination.
	Description json.RawMessage `json:"description,omitempty"`
	// Kubelet: a cluster makes the destination's pod, and removes the source's.
	Kubelet bool `json:"kubelet,omitempty"`
	// LatePod: and it does so after the commit only, when the source's pod is gone.
	LatePod bool `json:"late_pod,omitempty"`
	// Volumes are the names of those that come with a late pod, in the order of the
	// wire, and Memory is what its store may take, bytes: at the destination.
	Volumes []string `json:"volumes,omitempty"`
	Memory  uint64   `json:"memory,omitempty"`
	// Caller: it is whoever asked this source's daemon on its socket that has the
	// cluster do so, and no Orchestrator.
	Caller bool `json:"caller,omitempty"`
	// Left is how many pages were left at the source when the pod was cut over, 0 as soon as the
	// destination has fetched them: at the source.
	Left uint64 `json:"left,omitempty"`
	// PeerBoot is what the destination called the time since it was started when it took
	// the pod in: at the source.
	PeerBoot string `json:"peer_boot,omitempty"`
	// Voted: the pod was restored and held, so that the source may have committed: at the destination.
	Voted bool `json:"voted,omitempty"`
	// Admission is what the destination's shim is told.
	shimv1.Admission
}

func (r record) valid() error {
	_, known := stageMoves[r.Stage]
	switch {
	case !migrationID.MatchString(r.Migration):
		return fmt.Errorf("malformed migration id %q", r.Migration)
	case !known:
		return fmt.Errorf("unknown stage %q", r.Stage)
	case r.Peer == "":
		return errors.New("no peer")
	}
	return nil
}

// journal keeps the records: a root-only file for each in dir, and one in admit
// for each destination, with its Admission. The two may be one directory: a record
// is an Admission.
type journal struct {
	dir   string
	admit string
	// boot is this node's name for the time since it was started.
	boot string
}

func openJournal(dir, admit string) (*journal, error) {
	for _, d := range []string{dir, admit} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
	}
	boot, err := bootOf(filepath.Dir(admit))
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &journal{dir: dir, admit: admit, boot: boot}, nil
}

// durability says which failures a record must outlive.
type durability bool

const (
	// throughReboot waits for the disk.
	throughReboot durability = true
	// throughCrash outlives the daemon, and takes no time in the frozen window.
	throughCrash durability = false
)

// save writes the record in the place of its former self, or not at all.
func (j *journal) save(r record, d durability) error {
	if err := r.valid(); err != nil {
		return fmt.Errorf("record of migration: %w", err)
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record of migration %s: %w", r.Migration, err)
	}
	if !r.Stage.source() && j.admit != j.dir {
		admission, err := r.Admission.Encode()
		if err != nil {
			return fmt.Errorf("record of migration %s: %w", r.Migration, err)
		}
		if err := replace(j.admit, r.Migration+".json", admission, throughCrash); err != nil {
			return fmt.Errorf("record of migration %s: %w", r.Migration, err)
		}
	}
	if err := replace(j.dir, r.Migration+".json", b, d); err != nil {
		return fmt.Errorf("record of migration %s: %w", r.Migration, err)
	}
	return nil
}

// replace writes a file by way of another and a rename.
func replace(dir, name string, b []byte, d durability) (err error) {
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil && d == throughReboot {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err == nil && d == throughReboot {
		err = syncDir(dir)
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// has says whether a migration is not forgotten yet.
func (j *journal) has(id string) bool {
	_, err := os.Lstat(filepath.Join(j.dir, id+".json"))
	return err == nil
}

// remove forgets a migration.
func (j *journal) remove(id string) error {
	var failed error
	for _, dir := range []string{j.admit, j.dir} {
		if err := os.Remove(filepath.Join(dir, id+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("record of migration %s: %w", id, err))
		}
	}
	return failed
}

// load returns all records, and removes what interrupted writes and finished
// migrations left. A record that cannot be read is an error that names it, and
// the rest is returned: it is an operator's to look at, never ours to drop.
func (j *journal) load() ([]record, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var records []record
	var failed error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			os.Remove(filepath.Join(j.dir, e.Name()))
			continue
		}
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		r, err := j.read(id)
		if err != nil && !j.has(id) {
			continue // it has ended meanwhile
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s cannot be read, look at it and remove it: %w", filepath.Join(j.dir, e.Name()), err))
			continue
		}
		records = append(records, r)
	}
	return records, errors.Join(failed, j.sweepAdmissions())
}

// read returns a migration's record. The error wraps fs.ErrNotExist if there is none.
func (j *journal) read(id string) (record, error) {
	var r record
	if !migrationID.MatchString(id) {
		return r, fmt.Errorf("malformed migration id %q: %w", id, fs.ErrNotExist)
	}
	b, err := os.ReadFile(filepath.Join(j.dir, id+".json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, err
	}
	if err := r.valid(); err != nil {
		return r, err
	}
	if r.Migration != id {
		return r, fmt.Errorf("it is of migration %s", r.Migration)
	}
	return r, nil
}

// sweepAdmissions removes admissions that no record backs.
func (j *journal) sweepAdmissions() error {
	entries, err := os.ReadDir(j.admit)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(j.dir, e.Name())); errors.Is(err, fs.ErrNotExist) {
			os.Remove(filepath.Join(j.admit, e.Name()))
		}
	}
	return nil
}
