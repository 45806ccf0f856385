package workload

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrSequence is wrapped by the error for lines of which one is missing, doubled or torn.
var ErrSequence = errors.New("the lines are not one sequence")

// CheckAppended reads the file of a ticker, line by line, and returns how many lines it has. Every line must be there once,
// in order, and whole: the file of a move that lost or repeated something is not.
func CheckAppended(r io.Reader) (lines uint64, err error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		number, _, ok := strings.Cut(s.Text(), " ")
		n, err := strconv.ParseUint(number, 10, 64)
		if !ok || err != nil || len(s.Text()) != 32 {
			return lines, fmt.Errorf("%w: after line %d comes %q", ErrSequence, lines, s.Text())
		}
		if n != lines+1 {
			return lines, fmt.Errorf("%w: after line %d comes %d", ErrSequence, lines, n)
		}
		lines = n
	}
	return lines, s.Err()
}

// Printed is what a container's log has of a printer's lines, by stream ("stdout", "stderr"): the numbers, in order.
type Printed map[string][]uint64

// ReadLog collects a printer's lines from a container's log in CRI's format: time, stream, P or F, and the text. A line
// that was cut into parts is put together.
func (p Printed) ReadLog(r io.Reader) error {
	part := map[string]string{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f := strings.SplitN(s.Text(), " ", 4)
		if len(f) != 4 {
			return fmt.Errorf("%w: log line %q", ErrSequence, s.Text())
		}
		stream, text := f[1], part[f[1]]+f[3]
		if part[stream] = ""; f[2] == "P" {
			part[stream] = text
			continue
		}
		words := strings.Fields(text)
		if len(words) < 2 || stream == "stdout" && (words[0] != "out" || len(words) != 3 || words[2] != "0123456789abcdef") {
			return fmt.Errorf("%w: log line %q", ErrSequence, text)
		}
		n, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			return fmt.Errorf("%w: log line %q", ErrSequence, text)
		}
		p[stream] = append(p[stream], n)
	}
	return s.Err()
}

// Whole says whether the lines of a stream are 1, 2, 3 and so on up to last: nothing lost, nothing doubled.
func (p Printed) Whole(stream string, last uint64) error {
	for i, n := range p[stream] {
		if n != uint64(i)+1 {
			return fmt.Errorf("%w: %s: after line %d comes %d", ErrSequence, stream, i, n)
		}
	}
	if have := uint64(len(p[stream])); have < last {
		return fmt.Errorf("%w: %s: %d lines were printed, the logs end at %d", ErrSequence, stream, last, have)
	}
	return nil
}
