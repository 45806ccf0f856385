package crd

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The manifests are rendered by helm, which make generate does without: they are easily forgotten.
func TestManifestsHaveThisDefinition(t *testing.T) {
	manifests, err := os.ReadFile(filepath.Join("..", "godwit.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	definition := bytes.TrimSpace(bytes.TrimPrefix(PodMigrations, []byte("---\n")))
	if !bytes.Contains(manifests, definition) {
		t.Error("contrib/kubernetes/godwit.yaml has another definition of PodMigration: run make manifests")
	}
}
