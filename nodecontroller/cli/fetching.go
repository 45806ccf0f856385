package cli

import (
	"fmt"
	"time"

	nodev1 "godwit.dev/godwit/nodecontroller/api/node/v1"
)

// fetchingLine says how far a destination is with the pages that were left at the source.
func fetchingLine(p *nodev1.Progress) string {
	s := fmt.Sprintf("fetching: %d pages (%s) are missing, %d faults waited for some, %s/s",
		p.GetMissingPages(), Size(p.GetMissingPages()*4096), p.GetRemoteFaults(), Size(p.GetRate()))
	if eta := p.GetFetchEtaMs(); eta > 0 {
		s += fmt.Sprintf(", all here in %v", (time.Duration(eta) * time.Millisecond).Round(100*time.Millisecond))
	}
	return s
}
