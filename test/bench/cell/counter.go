package cell

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"godwit.dev/godwit/test/lab"
)

// counterTable counts what a node sends to another one. What goes to the host, where the clients are, is not in it.
const counterTable = "godwit_bench"

// count has both nodes count.
func count(ctx context.Context, l *lab.Lab) error {
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		from, to := l.Node(pair[0]), l.Node(pair[1])
		cmd := from.Command(ctx, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(
			"add table ip %[1]s\nflush table ip %[1]s\nadd chain ip %[1]s out { type filter hook output priority 0; }\nadd rule ip %[1]s out ip daddr %[2]s counter\n",
			counterTable, to.Addr()))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("count the bytes of node %s: nft: %w: %s", from.Name, err, out)
		}
	}
	return nil
}

var counted = regexp.MustCompile(`counter packets \d+ bytes (\d+)`)

// sent is what a node has sent to the other one so far, bytes.
func sent(ctx context.Context, n *lab.Node) (uint64, error) {
	out, err := n.Exec(ctx, "nft", "list", "table", "ip", counterTable)
	if err != nil {
		return 0, err
	}
	return parseCounter(string(out))
}

// parseCounter finds the one counter in a table as nft lists it.
func parseCounter(listed string) (uint64, error) {
	found := counted.FindStringSubmatch(listed)
	if found == nil {
		return 0, fmt.Errorf("nft lists no counter: %q", listed)
	}
	return strconv.ParseUint(found[1], 10, 64)
}
