package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"godwit.dev/godwit/test/lab"
)

// How late a thread's timers may be is the program's to set, and goes with it: to a node whose daemon and fault servers have set another for
// themselves, and on from there. CRIU knows nothing of it.
func TestAPodsTimersMayBeAsLateAsBefore(t *testing.T) {
	a, b := nodes(t)
	p := runPod(t, a, lab.PodSpec{Name: "slack", Containers: []lab.ContainerSpec{redisContainer(t)}})
	startWriter(t, p, keys(1000)).awaitWrites(1) // so that it has all its threads
	before := timerSlack(t, a, "redis-server")
	if len(before) < 2 {
		t.Fatalf("redis has no thread but %v", before)
	}
	set := []string{"1", "200000"}
	for thread := range before {
		if len(set) == 0 {
			break
		}
		setTimerSlack(t, a, "redis-server", thread, set[0])
		before[thread], set = set[0], set[1:]
	}
	for _, to := range []*lab.Node{b, a} {
		p.moveTo(to)
		if now := timerSlack(t, to, "redis-server"); !maps.Equal(now, before) {
			t.Errorf("on %s it is %v, was %v", to.Name, now, before)
		}
	}
}

// timerSlack is that of each thread of a node's process of a name, in nanoseconds, by the thread's number in its container.
func timerSlack(t *testing.T, n *lab.Node, name string) map[int]string {
	t.Helper()
	slack := map[int]string{}
	for inside, tid := range threads(t, n, name) {
		// Each thread has a directory of its own there, which is not listed.
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", tid))
		if err != nil {
			t.Skip("this kernel does not tell: ", err)
		}
		slack[inside] = strings.TrimSpace(string(text))
	}
	return slack
}

func setTimerSlack(t *testing.T, n *lab.Node, name string, thread int, slack string) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/timerslack_ns", threads(t, n, name)[thread]), []byte(slack), 0); err != nil {
		t.Fatal(err)
	}
}

// threads are those of a node's process of a name, by their numbers in its container.
func threads(t *testing.T, n *lab.Node, name string) map[int]int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pidOf(t, n, name, "")))
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]int{}
	for _, path := range tasks {
		status, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(status), "\nNSpid:")
		line, _, _ := strings.Cut(after, "\n")
		ids := strings.Fields(line)
		inside, err := strconv.Atoi(ids[len(ids)-1])
		if err != nil {
			t.Fatal(err)
		}
		if all[inside], err = strconv.Atoi(filepath.Base(filepath.Dir(path))); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
