package shim

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"godwit.dev/godwit/pagestream/lazy"
	shimv1 "godwit.dev/godwit/shim/api/v1"
)

// fetchOrder says how a fault server gets pages that were left at the source; without a
// token none were.
type fetchOrder struct {
	Migration string
	Token     [32]byte
	Reconnect time.Duration
}

// fetchOf is what a request says of that.
func fetchOf(r *shimv1.RestoreRequest) fetchOrder {
	if len(r.GetFetchToken()) != 32 {
		return fetchOrder{}
	}
	return fetchOrder{Migration: r.GetMigration(), Token: [32]byte(r.GetFetchToken()), Reconnect: reconnectOf(r.GetReconnectMs())}
}

// remote has the fault server listen for the source; nil if nothing was left there.
func (o fillOrder) remote() (*lazy.Remote, error) {
	if o.Fetch == (fetchOrder{}) {
		return nil, nil
	}
	if o.Fetch.Migration == "" || o.Fetch.Reconnect <= 0 {
		return nil, errors.New("order for the fault server: pages were left at the source, and it is not said which")
	}
	path := shimv1.FetchSocket(o.Store, o.Container)
	listener, err := listenIn(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return nil, fmt.Errorf("missing pages: %w", err)
	}
	return &lazy.Remote{Listener: listener, Migration: o.Fetch.Migration, Token: o.Fetch.Token, Deadline: o.Fetch.Reconnect}, nil
}
