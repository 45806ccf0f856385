package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/test/bench/matrix"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/load"
	"godwit.dev/godwit/test/postgres"
	"godwit.dev/godwit/test/trial"
	"godwit.dev/godwit/test/workload"
)

// What the clients ask for a second.
const (
	writes  = 5000
	pings   = 1000
	checks  = 200
	inserts = 200
)

// patience is how long a client waits for one answer until it asks again, wherever the program answers: a program that has moved may
// still be held at its source, which then resets no connection, and how long clients are patient is not what is measured.
const patience = 100 * time.Millisecond

// rewriteRate is how much the rewriter writes, MiB a second.
const rewriteRate = 50

// client uses a program that is moved, and notes when it is answered.
type client interface {
	OnlyAt(address string)
	AlsoAt(address string)
	GiveUpAfter(time.Duration)
	// run uses the program until ctx ends.
	run(context.Context)
	// Answers are the moments of all answers, the oldest first, and LastAnswer is the last of them, zero without any.
	Answers() []time.Time
	LastAnswer() time.Time
	// fill has the program fill its memory; verify fails if any of it is not what it must be. Nobody runs meanwhile.
	fill(context.Context) error
	verify(context.Context) error
}

// program is one that can be moved.
type program struct {
	name string
	port string
	args []string
	user int64 // who runs it, by number
	// files is the directory in its file system that it writes to, without a slash at its begin; empty is none.
	files string
	image func(context.Context, *lab.Lab) (string, error)
	// client makes one for the program at an address.
	client func(address string) client
}

// programOf is a workload with so much memory, bytes.
func programOf(ctx context.Context, w matrix.Workload, memory int64) (program, error) {
	redis := program{name: w.Name, port: trial.RedisPort, args: trial.RedisCommand, image: trial.RedisImage}
	switch w.Name {
	case matrix.Redis:
		redis.client = func(address string) client { return writer{load.NewRedis(address, trial.Keys(memory))} }
		return redis, nil
	case matrix.Idle:
		redis.client = func(address string) client {
			return pinger{load.NewPinger(address), load.NewRedis(address, trial.Keys(memory))}
		}
		return redis, nil
	case matrix.Memcached:
		return program{
			name: w.Name, port: memcachedPort, image: memcachedImage,
			// Nothing is evicted: its slabs have room for more than is stored.
			args:   []string{"memcached", "-u", "root", "-l", "0.0.0.0", "-p", memcachedPort, "-t", "2", "-m", strconv.FormatInt(2*memory>>20, 10)},
			client: func(address string) client { return writer{load.NewMemcached(address, trial.Keys(memory))} },
		}, nil
	case matrix.Postgres:
		p, err := postgres.New(ctx, memory)
		return program{
			name: w.Name, port: postgres.Port, args: p.Args, user: p.User, files: postgres.Files, image: postgres.Image,
			client: func(address string) client { return inserter{postgres.NewClient(address)} },
		}, err
	case matrix.Rewriter:
		return program{
			name: w.Name, port: workload.Port,
			args:  []string{"/" + workload.Rewriter, workload.Port, strconv.FormatInt(memory>>20, 10), strconv.Itoa(rewriteRate)},
			image: func(ctx context.Context, l *lab.Lab) (string, error) { return workload.Image(ctx, l) },
			client: func(address string) client {
				return &checker{Asker: load.NewAsker(address, false, check), address: address, pages: uint64(memory) / 4096}
			},
		}, nil
	}
	return program{}, fmt.Errorf("workload %s: nobody knows how to run it", w.Name)
}

const memcachedPort = "11211"

func memcachedImage(ctx context.Context, l *lab.Lab) (string, error) {
	return l.AddImage(ctx, lab.ImageSpec{Name: matrix.Memcached, Debian: []string{"memcached"}})
}

// writer writes values to a server of keys and values.
type writer struct{ *load.Store }

func (w writer) run(ctx context.Context)          { _ = w.Write(ctx, writes) }
func (w writer) fill(ctx context.Context) error   { return w.Fill(ctx) }
func (w writer) verify(ctx context.Context) error { return verify(ctx, w.Store) }

// verify reads all of it.
func verify(ctx context.Context, r *load.Store) error {
	v, err := r.Verify(ctx)
	if err == nil && v.Lost+v.Wrong > 0 {
		err = fmt.Errorf("data was lost or changed: %d writes lost, %d values wrong", v.Lost, v.Wrong)
	}
	return err
}

// pinger asks a redis for nothing but an answer.
type pinger struct {
	*load.Asker
	content *load.Store
}

func (p pinger) OnlyAt(address string) {
	p.Asker.OnlyAt(address)
	p.content.OnlyAt(address)
}

func (p pinger) run(ctx context.Context)          { p.Ask(ctx, pings) }
func (p pinger) fill(ctx context.Context) error   { return p.content.Fill(ctx) }
func (p pinger) verify(ctx context.Context) error { return verify(ctx, p.content) }

// inserter inserts numbers into a PostgreSQL.
type inserter struct{ postgres.Client }

func (i inserter) run(ctx context.Context)          { i.Ask(ctx, inserts) }
func (i inserter) fill(ctx context.Context) error   { return i.Fill(ctx) }
func (i inserter) verify(ctx context.Context) error { return i.Verify(ctx) }

// checker asks a program that verifies itself.
type checker struct {
	*load.Asker
	address string
	pages   uint64
}

func (c *checker) OnlyAt(address string) {
	c.Asker.OnlyAt(address)
	c.address = address
}

func (c *checker) run(ctx context.Context) { c.Ask(ctx, checks) }

// fillPoll is how often the rewriter is asked whether it has written all of its memory once.
const fillPoll = 100 * time.Millisecond

func (c *checker) fill(ctx context.Context) error {
	for {
		figures, err := workload.Check(ctx, c.address)
		if err != nil {
			return err
		}
		if written, err := strconv.ParseUint(figures["written"], 10, 64); err != nil || written >= c.pages {
			return err
		}
		if err := pause(ctx, fillPoll); err != nil {
			return err
		}
	}
}

func (c *checker) verify(ctx context.Context) error {
	_, err := workload.Check(ctx, c.address)
	return err
}

// maxAnswer is what an answer to a check has at most, bytes.
const maxAnswer = 1 << 10

// check asks once.
func check(conn net.Conn) error {
	if _, err := io.WriteString(conn, "check\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(string(answer), "\n") {
		return errors.New("the answer was cut off")
	}
	return nil
}

// pause waits; the error is that of ctx, if it ends first.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
