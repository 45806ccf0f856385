package lazy

const (
	// vicinityPages is how many pages around one that a process waits for go ahead of the rest
	// of the background: 1 MiB. What a process needs to go on lies in few places, page by page
	// all over each.
	vicinityPages = 256
	// maxVicinities bounds those that are not fetched yet.
	maxVicinities = 64
)

// vicinity is pages of a process near one that a process waited for.
type vicinity struct {
	of      *remotePages
	at, end uint64
}

// vicinities are those not fetched yet; the last goes first.
type vicinities []vicinity

// add puts the pages around one ahead of all others.
func (v *vicinities) add(of *remotePages, i uint64) {
	if len(*v) == maxVicinities {
		*v = append((*v)[:0], (*v)[1:]...)
	}
	first := i - min(i, vicinityPages/2)
	*v = append(*v, vicinity{of, first, min(first+vicinityPages, of.source.pages)})
}

// next is the first page in them that is not asked for on this connection, and the end of its vicinity.
func (v *vicinities) next() (of *remotePages, i, end uint64) {
	for len(*v) > 0 {
		last := &(*v)[len(*v)-1]
		if last.at = last.of.settled.next(last.at, last.end); last.at < last.end {
			return last.of, last.at, last.end
		}
		*v = (*v)[:len(*v)-1]
	}
	return nil, 0, 0
}
