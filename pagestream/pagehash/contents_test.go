package pagehash

import (
	"sync/atomic"
	"testing"
)

func TestContentsHaveOneNumberEachAsLongAsThereAreAny(t *testing.T) {
	var left atomic.Int64
	left.Store(3)
	a, b := NewContents(1, &left), NewContents(1, &left)
	number := func(c *Contents, content string, want uint32, fresh, ok bool) {
		t.Helper()
		n, f, o := c.Number(c.Hash([]byte(content)))
		if f != fresh || o != ok || ok && n != want {
			t.Errorf("%q: %d, fresh %v, ok %v", content, n, f, o)
		}
	}
	number(a, "x", 0, true, true)
	number(a, "y", 1, true, true)
	number(a, "x", 0, false, true)
	number(b, "x", 0, true, true)
	number(a, "z", 0, false, false) // b has had the last
	number(a, "y", 1, false, true)
	if a.Knows(a.Hash([]byte("z"))) || !a.Knows(a.Hash([]byte("y"))) || a.Hash([]byte("y")) == NewContents(2, &left).Hash([]byte("y")) {
		t.Error("what has a number is not what is known, or the seed does not count")
	}
}
