package shim

import (
	"slices"
	"testing"

	"godwit.dev/godwit/pagestream/images"
)

func TestAreasThatCRIUsOwnDumpJoinsAreOne(t *testing.T) {
	area := func(start, end uint64, prot uint32) images.VMA {
		return images.VMA{Start: start, End: end, Prot: prot, Flags: 0x22, Status: 0x201}
	}
	for name, c := range map[string]struct{ areas, want []images.VMA }{
		"side by side":          {[]images.VMA{area(0x1000, 0x3000, 0), area(0x3000, 0x4000, 0), area(0x4000, 0x9000, 0)}, []images.VMA{area(0x1000, 0x9000, 0)}},
		"that may be read":      {[]images.VMA{area(0x1000, 0x3000, 1), area(0x3000, 0x4000, 1)}, []images.VMA{area(0x1000, 0x3000, 1), area(0x3000, 0x4000, 1)}},
		"with a gap":            {[]images.VMA{area(0x1000, 0x3000, 0), area(0x4000, 0x5000, 0)}, []images.VMA{area(0x1000, 0x3000, 0), area(0x4000, 0x5000, 0)}},
		"of another protection": {[]images.VMA{area(0x1000, 0x3000, 0), area(0x3000, 0x4000, 3)}, []images.VMA{area(0x1000, 0x3000, 0), area(0x3000, 0x4000, 3)}},
		"none":                  {nil, nil},
	} {
		if got := joinedAreas(c.areas); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}
