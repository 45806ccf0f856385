package nodecontroller

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func testJournal(t *testing.T) *journal {
	t.Helper()
	dir := t.TempDir()
	j, err := openJournal(filepath.Join(dir, "migrations"), filepath.Join(dir, "admit"))
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func testRecord(id string, s stage) record {
	return record{
		Migration: id, Stage: s, Pod: "default/p", Peer: "b", Address: "192.0.2.1:7440",
		Started: time.Unix(1700000000, 5).UTC(), Sandbox: "abc", Containers: []string{"c1", "c2"}, Images: []string{"sha256:1"},
		Description: json.RawMessage("{\n  \"handler\": \"godwit\"\n}"),
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	j := testJournal(t)
	for s := range stageMoves {
		for _, d := range []durability{throughCrash, throughReboot} {
			r := testRecord("m-1", s)
			if err := j.save(r, d); err != nil {
				t.Fatal(err)
			}
			got, err := j.load()
			if err != nil || len(got) != 1 {
				t.Fatalf("%s: load: %d records, %v", s, len(got), err)
			}
			var want, have any
			_ = json.Unmarshal(r.Description, &want)
			_ = json.Unmarshal(got[0].Description, &have)
			got[0].Description, r.Description = nil, nil
			if !reflect.DeepEqual(got[0], r) || !reflect.DeepEqual(want, have) {
				t.Errorf("%s: %+v came back as %+v", s, r, got[0])
			}
			fi, err := os.Stat(filepath.Join(j.dir, "m-1.json"))
			if err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v: want 0600", fi.Mode(), err)
			}
		}
	}
}

func TestDestinationIsAdmittedAsLongAsItsRecordLives(t *testing.T) {
	j := testJournal(t)
	admission := filepath.Join(j.admit, "m-1.json")
	if err := j.save(testRecord("m-1", sourcePreparing), throughCrash); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(admission); err == nil {
		t.Error("a source is admitted to its own shims")
	}
	if err := j.save(testRecord("m-1", destinationPreparing), throughCrash); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Lstat(admission); err != nil || !fi.Mode().IsRegular() {
		t.Fatalf("destination not admitted: %v", err)
	}
	if !j.has("m-1") {
		t.Error("has not what was saved")
	}
	if err := j.remove("m-1"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{j.dir, j.admit} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s left in %s", left, dir)
		}
	}
	if err := j.remove("m-1"); err != nil {
		t.Errorf("second remove: %v", err)
	}
}

func TestLoadNamesWhatItCannotReadAndReturnsTheRest(t *testing.T) {
	j := testJournal(t)
	if err := j.save(testRecord("m-good", destinationHeld), throughCrash); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"m-torn.json":    `{"migration": "m-torn"`,
		"m-other.json":   `{"migration":"m-good","stage":"destination-held","peer":"b"}`,
		"m-future.json":  `{"migration":"m-future","stage":"teleported","peer":"b"}`,
		".new-123":       "half",
		"notes.txt":      "not ours",
		"m-nopeer.json":  `{"migration":"m-nopeer","stage":"source-preparing"}`,
		"m-nostage.json": `{"migration":"m-nostage","peer":"b"}`,
	} {
		if err := os.WriteFile(filepath.Join(j.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(j.admit, "m-orphan.json"), nil, 0o600)
	records, err := j.load()
	if len(records) != 1 || records[0].Migration != "m-good" {
		t.Errorf("records %+v, want the good one", records)
	}
	for _, name := range []string{"m-torn", "m-other", "m-future", "m-nopeer", "m-nostage"} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v does not name %s", err, name)
		}
	}
	if _, err := os.Lstat(filepath.Join(j.dir, ".new-123")); err == nil {
		t.Error("half a record was left")
	}
	if _, err := os.Lstat(filepath.Join(j.admit, "m-orphan.json")); err == nil {
		t.Error("an admission without a record was left")
	}
	if _, err := os.Lstat(filepath.Join(j.dir, "m-torn.json")); err != nil {
		t.Error("a record that cannot be read was removed: it is an operator's")
	}
}

func TestJournalRefusesNamesThatArePaths(t *testing.T) {
	j := testJournal(t)
	for _, id := range []string{"", "../x", "a/b", ".hidden", "A", strings.Repeat("a", 64), "a\x00"} {
		r := testRecord(id, destinationPreparing)
		if err := j.save(r, throughCrash); err == nil {
			t.Errorf("%q was saved", id)
		}
	}
}

func FuzzRecordNeverPanics(f *testing.F) {
	b, _ := json.Marshal(testRecord("m-1", destinationHeld))
	f.Add(b)
	f.Add([]byte(`{"stage":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		if json.Unmarshal(b, &r) != nil || r.valid() != nil {
			return
		}
		if !migrationID.MatchString(r.Migration) || r.Peer == "" {
			t.Errorf("%+v is valid", r)
		}
	})
}
