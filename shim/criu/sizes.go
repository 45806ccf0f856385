package criu

import (
	"path"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
)

// forgetSize removes the size of a file that others may write to. CRIU takes a file of another size for another
// file, and does not restore (criu/files-reg.c, validate_file).
func forgetSize(entry *fdinfo.FileEntry, others func(path string) bool) (changed bool) {
	reg := entry.GetReg()
	if reg == nil || reg.Size == nil || !others(path.Join("/", reg.GetName())) {
		return false
	}
	reg.Size = nil
	return true
}
