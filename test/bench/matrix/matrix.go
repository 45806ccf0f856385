// Package matrix is a benchmark's table as data: which ways to move a pod are compared, with which programs in it and over which
// links, what a client saw of one move, and how the table is written. Making the moves is package cell's.
package matrix

import (
	"fmt"
	"strings"
	"time"

	"godwit.dev/godwit/test/lab"
)

// Mode is a way to move a pod.
type Mode struct {
	// Name is what flags and the JSON have, Title what the Markdown says of it.
	Name, Title string
	// Flags are those of `godwitctl migrate`; none if somebody moves it by hand.
	Flags []string
	// By says who moves it.
	By By
}

// By is who moves a pod.
type By int

// Who there is.
const (
	Godwit   By = iota
	RunC        // an operator with runc's checkpoint and restore, and tar
	CRIULazy    // an operator with runc and CRIU's lazy pages
)

// Modes are the ways that are compared, in the order of the table.
func Modes() []Mode {
	return []Mode{
		{Name: "cold", Title: "stop-and-copy (`--mode cold`)", Flags: []string{"--mode", "cold"}},
		{Name: "live-s0", Title: "live, ended by rule S0 (`--rule s0`)", Flags: []string{"--rule", "s0"}},
		{Name: "live", Title: "live, ended by the default rule"},
		{Name: "postcopy", Title: "post-copy (`--mode postcopy`)", Flags: []string{"--mode", "postcopy"}},
		{Name: "hybrid", Title: "rounds, then the rest on demand (`--mode hybrid`)", Flags: []string{"--mode", "hybrid"}},
		{Name: "runc", Title: "by hand: `runc checkpoint`, tar over TCP, `runc restore`", By: RunC},
		{Name: "criu-lazy", Title: "by hand: `runc checkpoint --lazy-pages`, `criu lazy-pages`, `runc restore --lazy-pages`", By: CRIULazy},
	}
}

// Workload is a program that is moved.
type Workload struct {
	// Name is what flags and the JSON have, Title what the Markdown says of it.
	Name, Title string
}

// The workloads' names.
const (
	Redis     = "redis"
	Memcached = "memcached"
	Postgres  = "postgres"
	Rewriter  = "rewriter"
	Idle      = "idle"
)

// Workloads are the programs, in the order of the table.
func Workloads() []Workload {
	return []Workload{
		{Redis, "a redis; its client writes 5,000 values of 1 KiB a second, all over the memory, and verifies every one after each move"},
		{Memcached, "the same with a memcached, which puts a value where an old one was"},
		{Postgres, "a PostgreSQL with pgbench in its pod, which makes 200 transactions a second (TPC-B-like) on four connections: half of the memory is shared buffers, the other half the database's files, " +
			"in the container's file system. The client inserts a number 200 times a second, each in a transaction of its own, and verifies all of them after each move, what pgbench's tables add up to, and an index"},
		{Rewriter, "a program that rewrites its memory at 50 MiB a second, page after page, and verifies them; its client asks it 200 times a second"},
		{Idle, "a redis that nobody writes to; its client asks for an answer (PING) 1,000 times a second"},
	}
}

// Link is what the nodes are connected by.
type Link struct {
	Name, Title string
	Shape       lab.Shape
}

// Links are the links, in the order of the table.
func Links() []Link {
	return []Link{
		{Name: "unshaped", Title: "as fast as the machine is"},
		{Name: "1gbit", Title: "1 Gbit/s", Shape: lab.Shape{Rate: 1_000_000_000}},
		{Name: "200mbit", Title: "200 Mbit/s, 10 ms there and back", Shape: lab.Shape{Rate: 200_000_000, Delay: 5 * time.Millisecond}},
	}
}

// Choose returns those of all that only names, with commas; all of them if it is empty.
func Choose[T any](all []T, name func(T) string, only string) ([]T, error) {
	if only == "" {
		return all, nil
	}
	var chosen []T
	var names []string
	for _, one := range all {
		names = append(names, name(one))
	}
wanted:
	for wanted := range strings.SplitSeq(only, ",") {
		for i, one := range all {
			if names[i] == wanted {
				chosen = append(chosen, one)
				continue wanted
			}
		}
		return nil, fmt.Errorf("%q is none of the table's: use some of %s", wanted, strings.Join(names, ", "))
	}
	return chosen, nil
}
