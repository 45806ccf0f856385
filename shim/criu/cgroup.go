package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"google.golang.org/protobuf/proto"
)

// cgroupImage says in which cgroups the container's threads were.
const cgroupImage = "cgroup.img"

// cgroupMagic begins it (criu/include/magic.h, CGROUP_MAGIC; IMG_COMMON_MAGIC first).
const cgroupMagic = uint64(0x59383330)<<32 | 0x54564319

// Idle lists the images in a directory that a restore which leaves cgroups alone has no use for. That is the one of cgroups, for which CRIU
// would start a process all the same that waits to be asked (criu/cgroup.c, prepare_cgroup); but only if all threads were in the same: the
// restorer asks for each that is not in its process's (criu/cr-restore.c, sigreturn_restore).
func Idle(dir string) ([]string, error) {
	image, err := os.ReadFile(filepath.Join(dir, cgroupImage))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image of cgroups: %w", err)
	}
	if alone(image) {
		return []string{cgroupImage}, nil
	}
	return nil, nil
}

// alone says whether an image of cgroups has one set of them. One that cannot be read has not.
func alone(image []byte) bool {
	const head = 12 // magic, and the length of the only entry
	if len(image) < head || binary.LittleEndian.Uint64(image) != cgroupMagic || uint64(binary.LittleEndian.Uint32(image[8:])) != uint64(len(image)-head) {
		return false
	}
	entry := new(cgroup.CgroupEntry)
	return proto.Unmarshal(image[head:], entry) == nil && len(entry.GetSets()) == 1
}
