package nodecontroller

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	peerv1 "godwit.dev/godwit/nodecontroller/api/peer/v1"
)

// journalOnly is a daemon that is at nothing, and has a record of migration m-1 like this.
func journalOnly(t *testing.T, content string) *Daemon {
	t.Helper()
	dir := t.TempDir()
	j, err := openJournal(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	if content != "" {
		if err := os.WriteFile(filepath.Join(dir, "m-1.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Daemon{config: &Config{NodeName: "here"}, journal: j, log: slog.New(slog.DiscardHandler)}
}

func TestAMigrationWithARecordIsNeverSaidToBeOver(t *testing.T) {
	at := func(s stage) string {
		return `{"migration": "m-1", "stage": "` + string(s) + `", "pod": "default/p", "peer": "there"}`
	}
	for _, c := range []struct {
		name, record, id, peer string
		outcome                peerv1.Outcome
		unserved               func(error) bool
	}{
		{"none", "", "m-1", "there", peerv1.Outcome_OUTCOME_ABORTED, errdefs.IsNotFound},
		{"committed", at(sourceCommitted), "m-1", "there", peerv1.Outcome_OUTCOME_COMMITTED, errdefs.IsNotFound},
		{"deciding", at(sourceDeciding), "m-1", "there", peerv1.Outcome_OUTCOME_PENDING, errdefs.IsNotFound},
		{"another's", at(sourceCommitted), "m-1", "elsewhere", peerv1.Outcome_OUTCOME_ABORTED, errdefs.IsNotFound},
		{"a destination's", at(destinationHeld), "m-1", "there", peerv1.Outcome_OUTCOME_ABORTED, errdefs.IsUnavailable},
		{"another's destination's", at(destinationHeld), "m-1", "elsewhere", peerv1.Outcome_OUTCOME_ABORTED, errdefs.IsNotFound},
		{"cut off", at(sourceCommitted)[:20], "m-1", "there", peerv1.Outcome_OUTCOME_UNSPECIFIED, errdefs.IsUnavailable},
		{"of a later version", at("source-beyond"), "m-1", "there", peerv1.Outcome_OUTCOME_UNSPECIFIED, errdefs.IsUnavailable},
		{"by a forged name", at(sourceCommitted), "../" + "m-1", "there", peerv1.Outcome_OUTCOME_ABORTED, errdefs.IsNotFound},
	} {
		d := journalOnly(t, c.record)
		if got := d.outcome(c.id, c.peer); got != c.outcome {
			t.Errorf("%s: outcome %s, want %s", c.name, got, c.outcome)
		}
		if err := d.unserved(c.id, c.peer); !c.unserved(err) {
			t.Errorf("%s: a source hears %v", c.name, err)
		}
	}
}

// In between it would seem that there is no such migration, which says that it was aborted.
func TestAPeerThatAsksADaemonThatStartsHearsOfNoAbort(t *testing.T) {
	c := newTestCluster(t)
	address := c.a.daemon.config.Listen
	c.a.stop()
	r := record{Migration: "m-early", Stage: sourceCommitted, Pod: "default/p", Peer: "b", Sandbox: "gone", Started: time.Now()}
	if err := c.a.daemon.journal.save(r, throughCrash); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Bool
	c.a.logged = func(line string) {
		if !strings.Contains(line, "recovering a migration of an earlier daemon") {
			return
		}
		asked.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if got := c.b.daemon.askOutcome(ctx, "a", address, "m-early"); got == peerv1.Outcome_OUTCOME_ABORTED {
			t.Errorf("outcome %s of what is committed", got)
		}
	}
	c.a.start()
	c.settled()
	if !asked.Load() {
		t.Error("nothing was recovered")
	}
}
