package cell

import (
	"context"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
)

// What a PostgreSQL has to do: pgbench's connections and transactions a second, and those of the client beside it.
const (
	benchClients = 4
	benchRate    = 200
	inserts      = 200
)

// scaleBytes is what pgbench's tables and their indices have for each step of its scale: 100,000 accounts.
const scaleBytes = 16 << 20

const (
	postgresPort = "5432"
	// postgresFiles has the database and the server's socket. Whoever runs the server must be able to make it.
	postgresFiles = "tmp/postgres"
	// numbers is the table that the client inserts into.
	numbers = "numbers"
	// nobody is a user that every Debian has, by number: a PostgreSQL does not run as root, and the number of a user of its own is known
	// to nobody but the image.
	nobody = 65534
)

//go:embed postgres/start.sh
var postgresScript string

// postgres is a PostgreSQL with so much memory, bytes: half of it shared buffers, half of it its database's files.
func postgres(ctx context.Context, memory int64) (program, error) {
	user, library, err := disguise(ctx)
	return program{
		name: matrix.Postgres, port: postgresPort, user: user, files: postgresFiles,
		args: []string{"bash", "-c", postgresScript, "bash", "/" + postgresFiles, postgresPort, strconv.FormatInt(memory/2>>20, 10),
			strconv.FormatInt(max(memory/2/scaleBytes, 1), 10), strconv.Itoa(benchClients), strconv.Itoa(benchRate), numbers, library},
		image: func(ctx context.Context, l *lab.Lab) (string, error) {
			return l.AddImage(ctx, lab.ImageSpec{Name: matrix.Postgres, Debian: []string{"postgresql"}})
		},
		client: func(address string) client { return inserter{load.NewPostgres(address, numbers)} },
	}, err
}

//go:embed postgres/nobody.c
var nobodySource string

// disguise is who runs a PostgreSQL, and, in base64, a library that makes it believe that nobody does who runs it as root. It has to be root on
// machines in a sandbox: CRIU reads the limits of another user's process with prlimit, which takes CAP_SYS_RESOURCE (kernel: kernel/sys.c,
// check_prlimit_permission). Elsewhere there is no library.
func disguise(ctx context.Context) (user int64, library string, err error) {
	var have [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &have[0]); err != nil {
		return 0, "", fmt.Errorf("capabilities: %w", os.NewSyscallError("capget", err))
	}
	if have[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return nobody, "", nil
	}
	dir, err := os.MkdirTemp("", "godwit-bench-")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "nobody.so")
	cc := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-nostdlib", "-Os", "-s", "-x", "c", "-o", file, "-")
	cc.Stdin = strings.NewReader(nobodySource)
	if out, err := cc.CombinedOutput(); err != nil {
		return 0, "", fmt.Errorf("compile the library of a PostgreSQL run as root: %w: %s", err, out)
	}
	b, err := os.ReadFile(file)
	return 0, base64.StdEncoding.EncodeToString(b), err
}

// inserter inserts numbers into a PostgreSQL that pgbench uses as well.
type inserter struct{ *load.Postgres }

func (i inserter) run(ctx context.Context) { i.Ask(ctx, inserts) }

// connected is how many connections pgbench has that works, not the one that fills its tables.
const connected = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench' AND query ~ '^(BEGIN|END|UPDATE|SELECT|INSERT)'"

// fill waits until the database is there and pgbench works on it.
func (i inserter) fill(ctx context.Context) error {
	for {
		rows, err := i.Query(ctx, connected+" AND to_regclass('"+numbers+"') IS NOT NULL")
		if err == nil && only(rows) == strconv.Itoa(benchClients) {
			return nil
		}
		if perr := pause(ctx, fillPoll); perr != nil {
			return fmt.Errorf("await pgbench, the last answer is %q: %w", rows, errors.Join(perr, err))
		}
	}
}

// verified are questions to a PostgreSQL that runs as it should, with their answers.
var verified = []struct{ what, ask, want string }{
	{"the balances of accounts, tellers and branches are the sum of what pgbench has noted", `SELECT a = t AND a = b AND a = h FROM
		(SELECT sum(abalance) a FROM pgbench_accounts), (SELECT sum(tbalance) t FROM pgbench_tellers),
		(SELECT sum(bbalance) b FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) h FROM pgbench_history)`, "t"},
	{"every account is in its index", "SELECT bt_index_check('pgbench_accounts_pkey', true)", ""},
	{"no page has a wrong checksum", "SELECT sum(checksum_failures) FROM pg_stat_database", "0"},
	{"pgbench has all of its connections", connected, strconv.Itoa(benchClients)},
}

func (i inserter) verify(ctx context.Context) error {
	v, err := i.Verify(ctx)
	if err != nil {
		return err
	}
	if v.Lost+v.Wrong > 0 {
		return fmt.Errorf("data was lost or changed: %d numbers lost, %d wrong", v.Lost, v.Wrong)
	}
	for _, q := range verified {
		rows, err := i.Query(ctx, q.ask)
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
