package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

// said is one message of a PostgreSQL.
func said(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))) + body
}

const (
	ready  = "I"
	asRow  = "\x00\x02\x00\x00\x00\x0212\xff\xff\xff\xff"
	failed = "SERROR\x00C23505\x00Mno such thing\x00\x00"
)

func TestAnAnswerOfPostgresIsReadToItsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		want   [][]string
		err    string // a part of it
	}{
		"a login":                     {answer: said(authentication, "\x00\x00\x00\x00") + said('S', "a\x00b\x00") + said(readyForQuery, ready)},
		"a login by password":         {answer: said(authentication, "\x00\x00\x00\x03"), err: "password"},
		"rows":                        {answer: said('T', "x") + said(dataRow, asRow) + said(dataRow, asRow) + said(readyForQuery, ready), want: [][]string{{"12", ""}, {"12", ""}}},
		"an error":                    {answer: said(errorResponse, failed) + said(readyForQuery, ready), err: "no such thing"},
		"an error, and the end of it": {answer: said(errorResponse, failed), err: "no such thing"},
		"an error without a message":  {answer: said(errorResponse, "SERROR") + said(readyForQuery, ready), err: "without a message"},
		"cut off":                     {answer: said(dataRow, asRow), err: "EOF"},
		"a message cut off":           {answer: said(dataRow, asRow)[:9], err: "EOF"},
		"a row cut off":               {answer: said(dataRow, asRow[:7]), err: "cut off"},
		"a row without columns":       {answer: said(dataRow, "\x00"), err: "cut off"},
		"too long":                    {answer: "D\xff\xff\xff\xff", err: "message of"},
		"too short":                   {answer: "D\x00\x00\x00\x03", err: "message of"},
	} {
		got, err := readAnswer(bufio.NewReader(strings.NewReader(c.answer)))
		switch {
		case c.err != "":
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %q, %v, want an error with %q", name, got, err, c.err)
			}
		case err != nil || !reflect.DeepEqual(got, c.want):
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestPostgresHasLostWhatWasAcknowledgedAndIsNotThere(t *testing.T) {
	// 1 to 6 were sent, 3 and 6 never acknowledged.
	p := NewPostgres("", "t")
	for n := 1; n <= 6; n++ {
		if p.begin(); n != 3 && n != 6 {
			p.pending = 0
		}
	}
	for name, c := range map[string]struct {
		numbers     []uint64
		lost, wrong uint64
	}{
		"all":                            {[]uint64{1, 2, 3, 4, 5, 6}, 0, 0},
		"what was acknowledged":          {[]uint64{1, 2, 4, 5}, 0, 0},
		"one of these lost":              {[]uint64{1, 2, 3, 5, 6}, 1, 0},
		"nothing":                        {nil, 4, 0},
		"one that was never sent":        {[]uint64{1, 2, 4, 5, 7}, 0, 1},
		"one twice":                      {[]uint64{1, 2, 2, 4, 5}, 0, 1},
		"one lost, another in its place": {[]uint64{0, 1, 2, 4}, 1, 1},
	} {
		v := p.judge(c.numbers)
		if v.Lost != c.lost || v.Wrong != c.wrong || v.Acked != 4 {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func FuzzAnAnswerOfPostgresIsReadWithoutPanic(f *testing.F) {
	f.Add([]byte(said(dataRow, asRow) + said(readyForQuery, ready)))
	f.Add([]byte(said(errorResponse, failed) + said(readyForQuery, ready)))
	f.Fuzz(func(t *testing.T, answer []byte) {
		rows, err := readAnswer(bufio.NewReader(bytes.NewReader(answer)))
		if err != nil && rows != nil && len(rows) > len(answer) {
			t.Errorf("%d rows of %d bytes", len(rows), len(answer))
		}
	})
}
