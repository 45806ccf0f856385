package workload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"godwit.dev/godwit/test/pace"
)

// ErrWrong is wrapped by the error of a program that found something wrong with itself.
var ErrWrong = errors.New("the workload is not as it must be")

// askPatience is how long one connection may take: a pod that is frozen, or that has moved, is asked anew.
const askPatience = 25 * time.Second

// maxAnswer bounds an answer, bytes.
const maxAnswer = 16 << 20

// Ask asks a program at address, host:port, and returns its answer without the last line break. It tries again until ctx
// ends, because a move closes connections.
func Ask(ctx context.Context, address, question string) (string, error) {
	for {
		answer, err := askOnce(ctx, address, question)
		if err == nil {
			return strings.TrimRight(answer, "\n"), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("ask %s at %s: %w (%w)", question, address, err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func askOnce(ctx context.Context, address, question string) (string, error) {
	conn, err := (&net.Dialer{Timeout: pace.Stretch(500 * time.Millisecond)}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(pace.Stretch(askPatience))); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, question+"\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(string(answer), "\n") {
		return "", errors.New("the connection was closed before the answer")
	}
	return string(answer), nil
}

// Check asks a program whether all of it is right, and returns the figures in its answer. An error that wraps ErrWrong says
// what is not.
func Check(ctx context.Context, address string) (map[string]string, error) {
	answer, err := Ask(ctx, address, "check")
	if err != nil {
		return nil, err
	}
	return parseCheck(answer)
}

func parseCheck(answer string) (map[string]string, error) {
	rest, ok := strings.CutPrefix(answer, "ok")
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrWrong, strings.TrimPrefix(answer, "wrong: "))
	}
	figures := map[string]string{}
	for _, f := range strings.Fields(rest) {
		name, value, _ := strings.Cut(f, "=")
		figures[name] = value
	}
	return figures, nil
}

// Stall is a time in which the ticker did not tick.
type Stall struct {
	Began  time.Time
	Length time.Duration
}

// Stalls asks a ticker for its stalls longer than that since a moment.
func Stalls(ctx context.Context, address string, longer time.Duration, since time.Time) ([]Stall, error) {
	answer, err := Ask(ctx, address, fmt.Sprintf("stalls %d", longer.Microseconds()))
	if err != nil {
		return nil, err
	}
	all, err := parseStalls(answer)
	if err != nil {
		return nil, fmt.Errorf("ticker at %s: %w", address, err)
	}
	var recent []Stall
	for _, s := range all {
		if s.Began.After(since) {
			recent = append(recent, s)
		}
	}
	return recent, nil
}

func parseStalls(answer string) ([]Stall, error) {
	var all []Stall
	for line := range strings.Lines(answer) {
		began, us, ok := strings.Cut(strings.TrimSpace(line), " ")
		if began == "end" {
			continue
		}
		ns, err := strconv.ParseInt(began, 10, 64)
		length, err2 := strconv.ParseInt(us, 10, 64)
		if !ok || err != nil || err2 != nil {
			return nil, fmt.Errorf("stall %q: want a time and a length", line)
		}
		all = append(all, Stall{Began: time.Unix(0, ns), Length: time.Duration(length) * time.Microsecond})
	}
	return all, nil
}
