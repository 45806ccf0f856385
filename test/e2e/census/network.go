package census

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"godwit.dev/godwit/test/lab"
)

// network counts the node's network interfaces (each pod has one of a pair), sockets that are listened on, and lines of its
// packet filters.
func (c Census) network(n *lab.Node) error {
	dev, err := os.Open(filepath.Join("/proc", strconv.Itoa(n.PID()), "net/dev"))
	if err != nil {
		return err
	}
	defer dev.Close()
	for s := bufio.NewScanner(dev); s.Scan(); {
		name, _, ok := strings.Cut(s.Text(), ":")
		if ok && !strings.Contains(name, "|") {
			c["link "+linkPattern(strings.TrimSpace(name))]++
		}
	}
	tcp, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.PID()), "net/tcp"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(tcp)) {
		// proc_net(5): the fourth field is the state, 0A is listening.
		if f := strings.Fields(line); len(f) > 3 && f[3] == "0A" {
			c["socket listening"]++
		}
	}
	return nil
}

// linkPattern keeps bridges and uplinks apart from the ends of pods' links, which have names by chance.
func linkPattern(name string) string {
	if strings.HasPrefix(name, "veth") {
		return "veth"
	}
	return pattern(name)
}
