package criu

import (
	"encoding/binary"
	"fmt"
	"path"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"
)

// ForgetSizes removes the sizes of files from a container's images: of those that others
// may write to until they are opened again. CRIU takes a file of another size for another
// file, and does not restore (criu/files-reg.c, validate_file). others is asked for each
// file's path in the container.
func ForgetSizes(dir string, others func(path string) bool) error {
	return editFiles(dir, func(image []byte) ([]byte, bool, error) { return forgetSizes(image, others) })
}

// forgetSizes copies an image of open files; other entries stay as they are, byte for
// byte.
func forgetSizes(image []byte, others func(path string) bool) (out []byte, changed bool, err error) {
	err = eachFile(image, func(record []byte, entry *fdinfo.FileEntry) error {
		if reg := entry.GetReg(); reg != nil && reg.Size != nil && others(path.Join("/", reg.GetName())) {
			reg.Size = nil
			var err error
			if record, err = proto.Marshal(entry); err != nil {
				return fmt.Errorf("%w: %w", errFilesImage, err)
			}
			changed = true
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(record)))
		out = append(out, record...)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return append(image[:8:8], out...), changed, nil
}
