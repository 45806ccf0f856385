package nodecontroller

import (
	"testing"
	"time"

	"godwit.dev/godwit/pagestream/precopy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

func TestStandstillOfAMeasuredDowntime(t *testing.T) {
	ms := func(n time.Duration) time.Duration { return n * time.Millisecond }
	for _, c := range []struct {
		name     string
		cut      *shimv1.CutOverResponse
		measured uint64
		want     precopy.Standstill
	}{
		{"the dump took longer than the pages", &shimv1.CutOverResponse{FreezeUs: 2e3, DumpUs: 50e3, FilesUs: 60e3, PagesUs: 20e3, TotalUs: 61e3}, 131e3,
			precopy.Standstill{Freeze: ms(2), Dump: ms(58), Restore: ms(70)}},
		{"the pages took longer, and the files with them", &shimv1.CutOverResponse{FreezeUs: 2e3, DumpUs: 50e3, FilesUs: 900e3, PagesUs: 1000e3, TotalUs: 1001e3}, 1071e3,
			precopy.Standstill{Freeze: ms(2), Dump: ms(48), Restore: ms(70)}},
		{"figures that do not fit", &shimv1.CutOverResponse{FreezeUs: 9e3, DumpUs: 5e3, TotalUs: 61e3}, 60e3, precopy.Standstill{Freeze: ms(9)}},
	} {
		if got := standstillOf(c.cut, c.measured); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
