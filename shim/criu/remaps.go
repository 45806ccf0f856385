package criu

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
)

// remapsImage says which open files have lost their names.
const remapsImage = "remap-fpath.img"

// imageHeader is the size of an image without entries: two magic numbers.
const imageHeader = 8

// remapName is how CRIU names a file that is open under a deleted name, and has others
// (criu/files-reg.c, create_link_remap).
var remapName = regexp.MustCompile(`^link_remap\.[0-9]+$`)

// maxRemaps bounds the names of one dump: they come from another node, and each takes
// descriptors.
const maxRemaps = 4096

// HasRemaps says whether a dump has given deleted files other names.
func HasRemaps(dir string) (bool, error) {
	info, err := os.Stat(filepath.Join(dir, remapsImage))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("names of deleted files: %w", err)
	}
	return info.Size() > imageHeader, nil
}

// LinkRemaps lists the names that a dump has given to deleted files that have another
// name still, as absolute paths in the container. A restore removes them.
func LinkRemaps(dir string) ([]string, error) {
	if has, err := HasRemaps(dir); err != nil || !has {
		return nil, err
	}
	file := filepath.Join(dir, filesImage)
	image, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("open files: %w", err)
	}
	names, err := linkRemaps(image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return names, nil
}

func linkRemaps(image []byte) (names []string, err error) {
	err = eachFile(image, func(_ []byte, entry *fdinfo.FileEntry) error {
		name := path.Join("/", strings.ToValidUTF8(entry.GetReg().GetName(), "?"))
		if !remapName.MatchString(path.Base(name)) {
			return nil
		}
		if len(names) == maxRemaps {
			return fmt.Errorf("%w: more than %d names of deleted files", errFilesImage, maxRemaps)
		}
		names = append(names, name)
		return nil
	})
	return names, err
}
