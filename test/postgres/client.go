package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"godwit.dev/godwit/test/load"
)

// Client inserts numbers into a PostgreSQL that pgbench uses as well.
type Client struct{ *load.Postgres }

// NewClient is a client of the PostgreSQL at address, host:port.
func NewClient(address string) Client { return Client{load.NewPostgres(address, numbers)} }

// working is how many connections of pgbench make transactions: not the one that fills its tables.
const working = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench' AND query ~ '^(BEGIN|END|UPDATE|SELECT|INSERT)'"

// fillPoll is how often it is asked whether pgbench has begun.
const fillPoll = 100 * time.Millisecond

// Fill returns when the database is there and pgbench works on it.
func (c Client) Fill(ctx context.Context) error {
	for {
		rows, err := c.Query(ctx, working+" AND to_regclass('"+numbers+"') IS NOT NULL")
		if err == nil && only(rows) == strconv.Itoa(Clients) {
			return nil
		}
		select {
		case <-time.After(fillPoll):
		case <-ctx.Done():
			return fmt.Errorf("await pgbench, the last answer is %q: %w", rows, errors.Join(ctx.Err(), err))
		}
	}
}

// whole are questions to a PostgreSQL that is as it should be, with their answers.
var whole = []struct{ what, ask, want string }{
	{"the balances of accounts, tellers and branches are the sum of what pgbench has noted", `SELECT a = t AND a = b AND a = h FROM
		(SELECT sum(abalance) a FROM pgbench_accounts), (SELECT sum(tbalance) t FROM pgbench_tellers),
		(SELECT sum(bbalance) b FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) h FROM pgbench_history)`, "t"},
	{"every account is in its index", "SELECT bt_index_check('pgbench_accounts_pkey', true)", ""},
	{"no page has a wrong checksum", "SELECT sum(checksum_failures) FROM pg_stat_database", "0"},
	{"pgbench has all of its connections", working, strconv.Itoa(Clients)},
}

// Verify reads back all that must be there, and asks what tells whether the database is whole. Nobody may be inserting; pgbench goes on.
func (c Client) Verify(ctx context.Context) error {
	v, err := c.Postgres.Verify(ctx)
	if err != nil {
		return err
	}
	if v.Lost+v.Wrong > 0 {
		return fmt.Errorf("data was lost or changed: %d numbers lost, %d wrong", v.Lost, v.Wrong)
	}
	for _, q := range whole {
		rows, err := c.Query(ctx, q.ask)
		if err != nil {
			return err
		}
		if got := only(rows); got != q.want {
			return fmt.Errorf("it does not hold that %s: the answer is %q, not %q", q.what, got, q.want)
		}
	}
	return nil
}

// only is the only value of an answer, or what says that there is another number of them.
func only(rows [][]string) string {
	if len(rows) != 1 || len(rows[0]) != 1 {
		return fmt.Sprintf("%d rows", len(rows))
	}
	return rows[0][0]
}
