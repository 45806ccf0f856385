package load

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
)

func TestAValueIsReadAsItsServerSendsIt(t *testing.T) {
	redis, memcached := NewRedis("", 0).value, NewMemcached("", 0).value
	for name, c := range map[string]struct {
		read   func(*bufio.Reader, []byte) ([]byte, error)
		answer string
		want   string // "-" is none, empty an error
	}{
		"redis":                      {redis, "$3\r\nabc\r\n", "abc"},
		"redis, none":                {redis, "$-1\r\n", "-"},
		"redis, an error":            {redis, "-ERR no\r\n", ""},
		"redis, too long":            {redis, "$99999999\r\n", ""},
		"redis, cut off":             {redis, "$3\r\nab", ""},
		"memcached":                  {memcached, "VALUE key:1 0 3\r\nabc\r\nEND\r\n", "abc"},
		"memcached, none":            {memcached, "END\r\n", "-"},
		"memcached, an error":        {memcached, "SERVER_ERROR out of memory\r\n", ""},
		"memcached, too long":        {memcached, "VALUE key:1 0 99999999\r\n", ""},
		"memcached, less than it is": {memcached, "VALUE key:1 0 2\r\nabc\r\nEND\r\n", ""},
		"memcached, cut off":         {memcached, "VALUE key:1 0 3\r\nabc\r\nEN", ""},
	} {
		got, err := c.read(bufio.NewReader(strings.NewReader(c.answer)), nil)
		switch {
		case c.want == "":
			if err == nil {
				t.Errorf("%s: %q, and no error", name, got)
			}
		case err != nil, c.want == "-" && got != nil, c.want != "-" && string(got) != c.want:
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}

func TestAValueOfOneWriteIsThatOfNoOther(t *testing.T) {
	for name, set := range map[string]func([]byte, uint32, uint32) []byte{"redis": appendSet, "memcached": appendStore} {
		if bytes.Equal(set(nil, 1, 1), set(nil, 1, 2)) || bytes.Equal(set(nil, 1, 1), set(nil, 2, 1)) {
			t.Errorf("%s: two commands are the same", name)
		}
	}
}

func FuzzAnswersAreReadWithoutPanic(f *testing.F) {
	f.Add([]byte("VALUE key:1 0 3\r\nabc\r\nEND\r\n"))
	f.Add([]byte("$3\r\nabc\r\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, read := range []func(*bufio.Reader, []byte) ([]byte, error){readItem, readBulk} {
			if got, err := read(bufio.NewReader(bytes.NewReader(answer)), nil); err == nil && len(got) > len(answer) {
				t.Errorf("%d bytes of an answer of %d", len(got), len(answer))
			}
		}
	})
}
