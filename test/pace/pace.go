// Package pace says how much slower this machine is than those that the tests' deadlines are made for: a processor that is
// emulated takes ten times as long for everything. Deadlines are stretched by it, and load is lessened; what a test demands is not.
//
// What is measured (a stall, a downtime) is stretched by nobody: a test that judges such a figure says itself whether it
// means anything here.
package pace

import (
	"os"
	"strconv"
	"sync"
	"time"
)

// Env is the environment variable with the factor: a number from 1 on. Without it, the factor is 1.
const Env = "GODWIT_SLOW"

// Factor is how many times as long as elsewhere things may take; at least 1.
var Factor = sync.OnceValue(func() float64 { return parse(os.Getenv(Env)) })

func parse(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f > 1) || f > 1000 {
		return 1
	}
	return f
}

// Stretch is a deadline on this machine.
func Stretch(d time.Duration) time.Duration { return time.Duration(float64(d) * Factor()) }

// Fewer is how many of what n are elsewhere take as long here, at least 1: writes a second, say.
func Fewer(n int) int { return max(1, int(float64(n)/Factor())) }

// Slow says whether times that are measured here mean nothing.
func Slow() bool { return Factor() > 1 }
