package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// While a pod stands still CRIU asks the kernel for its TCP connections, twice for each container, of IPv4 and of IPv6. The kernel looks
// through the whole table that the pod's network namespace uses (inet_diag_dump_icsk in net/ipv4/inet_diag.c): the node's, unless
// namespaces are given their own, which Linux can since 6.1 (tcp_set_hashinfo in net/ipv4/tcp_ipv4.c).
const (
	tableSetting = "net.ipv4.tcp_child_ehash_entries" // what namespaces made from here on get; 0: none of their own
	tableFile    = "/proc/sys/net/ipv4/tcp_child_ehash_entries"
	sizeFile     = "/proc/sys/net/ipv4/tcp_ehash_entries" // of the table in use, negative if it is another namespace's
)

// smallTable is a table that is looked through in no time, entries; it lets a pod have half as many connections in TIME_WAIT.
const smallTable = 16 << 10

// connectionTable says what a pod's dump has to look through.
func connectionTable(context.Context, *Node) []Finding {
	children, err := readNumber(tableFile)
	size, sizeErr := readNumber(sizeFile)
	return tableFinding(children, size, errors.Join(err, sizeErr))
}

func tableFinding(children, size int, err error) []Finding {
	const feature = "table of TCP connections"
	size = max(size, -size)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return ok(feature, "the node's, for all pods, and Linux before 6.1 has no other")
	case err != nil:
		return ok(feature, "not known: "+err.Error())
	case children != 0:
		return ok(feature, fmt.Sprintf("each new pod has its own, of %d entries", children))
	case size <= 4*smallTable:
		return ok(feature, fmt.Sprintf("the node's, of %d entries", size))
	}
	return []Finding{{feature, OK, fmt.Sprintf("the node's, of %d entries, which CRIU has looked through twice for each container that it dumps", size),
		fmt.Sprintf("To have pods stand still for some ms less, set %s=%d before they are made: each has its own then, and at most %d connections in TIME_WAIT.",
			tableSetting, smallTable, smallTable/2)}}
}

func readNumber(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
