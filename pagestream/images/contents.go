package images

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"godwit.dev/godwit/pagestream"
)

// Contents says what a pages file has without having it: of each page, in the file's order, the number that its
// content has in the space pagestream.Content of the container. It takes the place of the pages file on its way.
//
// Its file, little endian: magic 8 bytes, pages u32, CRC-32C u32 of what the pages file has, then a u32 for each page.
type Contents struct {
	Sum     uint32 // CRC-32C of the pages file
	Numbers []uint32
}

const (
	contentsMagic = "GODWITPC"
	contentsHead  = 16
	// MaxContents is the most pages that such a file may stand for: 16 GiB.
	MaxContents = 1 << 22
)

// ContentsSum is the CRC-32C of a pages file that goes on with b.
func ContentsSum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ContentsPath is the file that stands for the pages file with this id in a directory of images.
func ContentsPath(dir string, id PagesID) string {
	return filepath.Join(dir, "pages-"+strconv.FormatUint(uint64(id), 10)+".contents")
}

// Encode is the file's bytes.
func (c Contents) Encode() []byte {
	b := make([]byte, 0, contentsHead+4*len(c.Numbers))
	b = append(b, contentsMagic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(c.Numbers)))
	b = binary.LittleEndian.AppendUint32(b, c.Sum)
	for _, n := range c.Numbers {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

// DecodeContents reads the file's bytes. Numbers are those of pages that an address can name. Errors wrap ErrFormat.
func DecodeContents(b []byte) (Contents, error) {
	if len(b) < contentsHead || string(b[:8]) != contentsMagic {
		return Contents{}, fmt.Errorf("no contents of a pages file: %w", ErrFormat)
	}
	pages := binary.LittleEndian.Uint32(b[8:])
	if pages > MaxContents || uint64(len(b)) != contentsHead+4*uint64(pages) {
		return Contents{}, fmt.Errorf("contents of %d pages in %d bytes: %w", pages, len(b), ErrFormat)
	}
	c := Contents{Sum: binary.LittleEndian.Uint32(b[12:]), Numbers: make([]uint32, pages)}
	for i := range c.Numbers {
		c.Numbers[i] = binary.LittleEndian.Uint32(b[contentsHead+4*i:])
		if uint64(c.Numbers[i]) >= pagestream.MaxAddress/pagestream.PageSize {
			return Contents{}, fmt.Errorf("content %d: number %d: %w", i, c.Numbers[i], ErrFormat)
		}
	}
	return c, nil
}

// ReadContentsFile reads such a file; errors name it.
func ReadContentsFile(path string) (Contents, error) {
	f, err := Open(path)
	if err != nil {
		return Contents{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, contentsHead+4*MaxContents+1))
	if err != nil {
		return Contents{}, fmt.Errorf("read %s: %w", path, err)
	}
	c, err := DecodeContents(b)
	if err != nil {
		return Contents{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ListPages finds the pages files in a directory of images, ListContents what stands for one, ascending.
func ListPages(dir string) ([]PagesID, error) { return listPages(dir, ".img") }

// ListContents is ListPages of the files that ContentsPath names.
func ListContents(dir string) ([]PagesID, error) { return listPages(dir, ".contents") }

func listPages(dir, suffix string) ([]PagesID, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the pages files: %w", err)
	}
	var ids []PagesID
	for _, e := range entries {
		s, ok := strings.CutPrefix(e.Name(), "pages-")
		if !ok {
			continue
		}
		if s, ok = strings.CutSuffix(s, suffix); !ok {
			continue
		}
		id, err := strconv.ParseUint(s, 10, 32)
		if err != nil || id == 0 || strconv.FormatUint(id, 10) != s {
			continue
		}
		ids = append(ids, PagesID(id))
	}
	slices.Sort(ids)
	return ids, nil
}
