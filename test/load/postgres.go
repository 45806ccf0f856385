package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"godwit.dev/godwit/test/pace"
)

// Postgres is a PostgreSQL into which numbers are inserted, one a transaction, and holds which ones must be in it. One whose insertion was
// not acknowledged may or may not be there.
type Postgres struct {
	*Asker
	table string

	mu      sync.Mutex
	sent    uint64 // the highest, guarded by mu
	unsure  map[uint64]bool
	pending uint64 // sent and not acknowledged, the only one; 0 for none
}

// NewPostgres expects a PostgreSQL at address, host:port, whose user postgres needs no password and whose database postgres has a table
// with one column of bigint, the number.
func NewPostgres(address, table string) *Postgres {
	p := &Postgres{table: table, unsure: map[uint64]bool{}}
	p.Asker = NewAsker(address, true, p.insert)
	p.greet = enter
	return p
}

// enter begins a session, and asks for an answer that needs none of the tables.
func enter(conn net.Conn) error {
	if err := login(conn); err != nil {
		return err
	}
	_, err := query(conn, "SELECT 1")
	return err
}

// insert inserts the next number.
func (p *Postgres) insert(conn net.Conn) error {
	n := p.begin()
	if _, err := query(conn, fmt.Sprintf("INSERT INTO %s VALUES (%d)", p.table, n)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = 0
	return nil
}

// begin is the next number.
func (p *Postgres) begin() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pending != 0 {
		p.unsure[p.pending] = true
	}
	p.sent++
	p.pending = p.sent
	return p.sent
}

// Query asks once, on a connection of its own to where the server was said to be last, and returns the rows of the answer.
func (p *Postgres) Query(ctx context.Context, sql string) ([][]string, error) {
	conn, err := (&net.Dialer{Timeout: pace.Stretch(5 * time.Second)}).DialContext(ctx, "tcp", p.last())
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := login(conn); err != nil {
		return nil, fmt.Errorf("postgres: log in: %w", err)
	}
	rows, err := query(conn, sql)
	if err != nil {
		return nil, fmt.Errorf("postgres: %s: %w", sql, err)
	}
	return rows, nil
}

// Verify reads all numbers and judges them. Nobody may be inserting.
func (p *Postgres) Verify(ctx context.Context) (Verdict, error) {
	rows, err := p.Query(ctx, "SELECT * FROM "+p.table+" ORDER BY 1")
	if err != nil {
		return Verdict{}, err
	}
	numbers := make([]uint64, 0, len(rows))
	for _, r := range rows {
		n, err := strconv.ParseUint(r[0], 10, 64)
		if err != nil {
			return Verdict{}, fmt.Errorf("postgres: number %q in table %s: %w", r[0], p.table, err)
		}
		numbers = append(numbers, n)
	}
	return p.judge(numbers), nil
}

// judge compares the numbers that are there, in their order, with those that must be.
func (p *Postgres) judge(numbers []uint64) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	var v Verdict
	for n := uint64(1); n <= p.sent; n++ {
		if n == p.pending || p.unsure[n] {
			continue
		}
		v.Acked++
		if _, there := slices.BinarySearch(numbers, n); !there {
			v.Lost++
		}
	}
	for i, n := range numbers {
		if n == 0 || n > p.sent || i > 0 && numbers[i-1] == n {
			v.Wrong++
		}
	}
	return v
}

// What is said in PostgreSQL's protocol: its version 3.0, and the kinds of messages.
const (
	protocol3 = 3 << 16

	authentication = 'R'
	errorResponse  = 'E'
	dataRow        = 'D'
	readyForQuery  = 'Z'
	simpleQuery    = 'Q'
)

// login begins a session of user postgres.
func login(conn net.Conn) error {
	const who = "user\x00postgres\x00database\x00postgres\x00application_name\x00godwit\x00\x00"
	m := binary.BigEndian.AppendUint32(nil, uint32(8+len(who)))
	m = binary.BigEndian.AppendUint32(m, protocol3)
	if _, err := conn.Write(append(m, who...)); err != nil {
		return err
	}
	_, err := readAnswer(bufio.NewReader(conn))
	return err
}

// query asks in one message, and returns the rows of the answer. Nothing follows an answer before the next question, so what is read ahead
// is none of the next answer's, unless the server ends the session.
func query(conn net.Conn, sql string) ([][]string, error) {
	m := binary.BigEndian.AppendUint32([]byte{simpleQuery}, uint32(4+len(sql)+1))
	if _, err := conn.Write(append(append(m, sql...), 0)); err != nil {
		return nil, err
	}
	return readAnswer(bufio.NewReader(conn))
}

// maxMessage is what one message has at most, bytes.
const maxMessage = 1 << 20

// readAnswer reads messages until the server is ready for the next question. An error that the server tells is the answer's.
func readAnswer(r *bufio.Reader) (rows [][]string, told error) {
	var head [5]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, errors.Join(told, err)
		}
		size := binary.BigEndian.Uint32(head[1:])
		if size < 4 || size > maxMessage {
			return nil, fmt.Errorf("postgres: a message of %d bytes", size)
		}
		body := make([]byte, size-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, errors.Join(told, err)
		}
		switch head[0] {
		case readyForQuery:
			return rows, told
		case authentication:
			if !slices.Equal(body, []byte{0, 0, 0, 0}) {
				return nil, errors.New("postgres: it wants a password")
			}
		case errorResponse:
			told = errors.New(message(body))
		case dataRow:
			row, err := parseRow(body)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
}

// message is what an error says to people: fields that end with a zero byte each, and begin with what they are.
func message(fields []byte) string {
	for len(fields) > 1 {
		end := slices.Index(fields, 0)
		if end < 0 {
			break
		}
		if fields[0] == 'M' {
			return "postgres: " + string(fields[1:end])
		}
		fields = fields[end+1:]
	}
	return "postgres: an error without a message"
}

// parseRow takes a row apart; what is null is empty.
func parseRow(body []byte) ([]string, error) {
	errShort := errors.New("postgres: a row is cut off")
	if len(body) < 2 {
		return nil, errShort
	}
	columns := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	row := []string{}
	for range columns {
		if len(body) < 4 {
			return nil, errShort
		}
		n := int32(binary.BigEndian.Uint32(body))
		body = body[4:]
		if n < 0 {
			row = append(row, "")
			continue
		}
		if int(n) > len(body) {
			return nil, errShort
		}
		row, body = append(row, string(body[:n])), body[n:]
	}
	return row, nil
}
